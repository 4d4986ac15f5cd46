"""arq's own tests that fail against our worker, each under the difference that ARCHITECTURE.md lists.

``python tests/stock/run.py`` (``make arq-tests``) runs arq's suite and expects exactly these.
"""

from typing import Final

#: the release whose tests these are
ARQ: Final = "0.28.0"

#: first cell of the row in ARCHITECTURE.md, "Where the worker differs" → tests that assert otherwise
DIFFERENCES: Final = {
    "log lines": {
        "test_cli::test_run",
        "test_worker::test_exc_extra",
    },
    "`max_tries` exceeded is found at the next pick": {"test_worker::test_retry_lots"},
    "deleting a failed job's payload": {
        # what remains of a job that ended well as well: run report and counters
        "test_worker::test_remain_keys",
        "test_worker::test_remain_keys_no_results",
        "test_worker::test_remain_keys_keep_results_forever",
        "test_worker::test_remain_keys_keep_results_forever_in_function",
        "test_worker::test_set_health_check_key",
    },
    "result that cannot be serialised": {"test_main::test_cant_pickle_result"},
    "SIGTERM cancels at once": {
        "test_worker::test_handle_sig",
        "test_worker::test_handle_no_sig",
    },
    "cron: the lock stays 60 s": {
        "test_cron::test_job_successful[0.0]",
        "test_cron::test_job_successful[0.5]",
        "test_cron::test_job_successful[0.9]",
    },
    "`start_jobs`, `run_job`": {
        "test_worker::test_job_retry_race_condition",
        "test_worker::test_multi_exec",
        "test_worker::test_queue_read_limit_equals_max_jobs",
        "test_worker::test_custom_queue_read_limit",
    },
}

#: these fail for their log lines alone: they pass once the assertions about log text are left out
LOG_LINES_ONLY: Final = {
    "test_cron::test_job_successful_on_specific_queue",
    "test_worker::test_abort_deferred_job_before",
    "test_worker::test_abort_job",
    "test_worker::test_abort_job_before",
    "test_worker::test_job_cancel_on_max_jobs",
    "test_worker::test_job_expired",
    "test_worker::test_job_job_not_found",
    "test_worker::test_job_old",
    "test_worker::test_job_retry",
    "test_worker::test_job_retry_dont_retry",
    "test_worker::test_job_retry_max_jobs",
    "test_worker::test_job_successful",
    "test_worker::test_job_successful_no_result_logging",
    "test_worker::test_job_timeout",
    "test_worker::test_many_jobs_expire",
    "test_worker::test_max_bursts_multiple",
    "test_worker::test_max_bursts_sub_call",
    "test_worker::test_non_burst",
    "test_worker::test_not_abort_job",
    "test_worker::test_retry_job_error",
    "test_worker::test_str_function",
    "test_worker::test_unpickleable",
    "test_worker::test_worker_signal_completes_job_before_shutting_down",
}
