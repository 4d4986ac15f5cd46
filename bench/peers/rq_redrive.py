"""rq: `rq_redrive.py '{"port": …, "count": …}'`: fail jobs, then requeue each as `rq requeue --all` does."""

import json
import sys
import time

from redis import Redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry

options = json.loads(sys.argv[1])
redis = Redis(host="127.0.0.1", port=options["port"])
queue = Queue("q", connection=redis)
registry = FailedJobRegistry(queue=queue)
text = {"text": "x" * 220}
for start in range(0, options["count"], 1_000):
    pipe = redis.pipeline()
    for _ in range(min(1_000, options["count"] - start)):
        job = Job.create("bench.nothing.at_all", args=(text,), connection=redis, origin="q")
        job.save(pipeline=pipe)
        job.set_status(JobStatus.FAILED, pipeline=pipe)
        registry.add(job, exc_string="Traceback\n" * 60, pipeline=pipe)
    pipe.execute()
ids = registry.get_job_ids()
began = time.perf_counter()
for job_id in ids:
    registry.requeue(job_id)
took_s = time.perf_counter() - began
assert len(queue) == len(ids), (len(queue), len(ids))
print(json.dumps({"per_s": len(ids) / took_s, "done": len(ids)}))
