"""Make the corpus of tracebacks: real errors of real libraries, each raised twice with other data.

``python -m tests.corpus.make`` writes one text file per traceback beside this module: three header
lines (group, type, message as JSON), an empty line, the traceback. The group is what a person says:
errors of one group are one cause. Lines of the second raising are shifted, ids and data differ.
"""

import json
import sys
import uuid
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: the raising code is compiled from text, so that the second time its lines are elsewhere
SOURCE = """
import asyncio, datetime, decimal, io, json, sqlite3, urllib.request
def fetch(n, name, value): {body}
def work(n, name, value):
    return fetch(n, name, value)
"""

ERRORS: dict[str, str] = {
    "redis-refused": "import redis; redis.Redis(port=[1, 2][n % 2], socket_timeout=1).ping()",
    "redis-wrong-type": "raise __import__('redis').ResponseError('WRONGTYPE Operation against a key holding the wrong kind of value')",
    "httpx-connect": "import httpx; httpx.get(f'http://127.0.0.1:{[1, 2][n % 2]}/{name}', trust_env=False)",
    "httpx-status": "import httpx; httpx.Response(503, request=httpx.Request('GET', f'https://api.example.com/v1/{name}?page={n}')).raise_for_status()",
    "httpx-not-found": "import httpx; httpx.Response(404, request=httpx.Request('GET', f'https://api.example.com/v1/{name}')).raise_for_status()",
    "urllib-refused": "urllib.request.urlopen(f'http://127.0.0.1:{[1, 2][n % 2]}/{name}', timeout=1)",
    "requests-refused": "import requests; requests.get(f'http://127.0.0.1:{[1, 2][n % 2]}/{name}', timeout=1)",
    "pandas-key": "import pandas as pd; pd.DataFrame({'a': [1]})['amount']",
    "pandas-merge": "import pandas as pd; pd.DataFrame({'a': [n]}).merge(pd.DataFrame({'b': [n]}), on='key')",
    "pandas-parse": "import pandas as pd; pd.read_csv(io.StringIO('a,b\\n' + '1,2\\n' * n + '1,2,3\\n'))",
    "pandas-date": "import pandas as pd; pd.to_datetime([f'{name} not a date'], format='%Y-%m-%d')",
    "pydantic-type": "import pydantic; pydantic.create_model('Order', amount=(int, ...))(amount=value)",
    "pydantic-missing": "import pydantic; pydantic.create_model('Order', customer=(str, ...))(other=n)",
    "json-value": "json.loads('[1, ' * n + '}')",
    "json-end": "json.loads('{\"a\": \"' + 'x' * n)",
    "asyncio-timeout": "asyncio.run(asyncio.wait_for(asyncio.sleep(5), 0.001))",
    "asyncio-group": "asyncio.run(__import__('tests.corpus.tasks', fromlist=['x']).group(n % 3 + 1))",
    "asyncio-loop": "asyncio.run(__import__('tests.corpus.tasks', fromlist=['x']).foreign())",
    "sqlite-missing": "sqlite3.connect(':memory:').execute('select * from orders')",
    "sqlalchemy-integrity": "__import__('tests.corpus.tasks', fromlist=['x']).twice(name, n)",
    "int-literal": "int(value)",
    "float-literal": "float(value)",
    "key-missing": "{'a': n}['customer_id']",
    "attribute-none": "None.strip()",
    "attribute-object": "object().customer",
    "unicode": "(b'x' * n + b'\\xff').decode()",
    "index": "[][n]",
    "zero": "n / 0",
    "file-missing": "open(f'/srv/data/{name}/export.csv')",
    "recursion": "fetch(n, name, value)",
    "decimal": "decimal.Decimal(value)",
    "date": "datetime.datetime.fromisoformat(value)",
    "unpack": "a, b = [1] * (n + 2)",
    "arguments": "fetch(n, name)",
    "chained": "__import__('tests.corpus.tasks', fromlist=['x']).chained(name)",
    "ours-payload": "__import__('app.payloads.codec', fromlist=['x']).Codec().decode_job(b'x' * n)",
    "ours-record": "__import__('app.records', fromlist=['x']).JobRun.from_json('{' * n)",
    "ours-settings": "__import__('app.settings', fromlist=['x']).Settings().queue('nobody')",
    "memory": "raise MemoryError(f'cannot allocate {n * 10**9 + 1234} bytes at {hex(id(object()))}')",
    "tenant": "raise PermissionError(f'tenant {uuid_} of {name}@example.com may not write at 2026-11-23T12:00:0{n % 10}Z')",
}


def raised(body: str, shift: int, n: int) -> tuple[str, str, str]:
    """Raise *body* from a file of other lines; type, message and traceback as a worker records them."""
    from workers.runs.job_letters import traceback_of

    text = "\n" * shift + SOURCE.format(body=body)
    space: dict[str, Any] = {"__name__": "orders", "uuid_": uuid.uuid4()}
    exec(compile(text, f"/srv/release-{n}/jobs/orders.py", "exec"), space)
    name = f"customer-{uuid.uuid4().hex[:12]}"
    try:
        space["work"](n, name, f"value {n} of {name}")
    except BaseException as error:
        return type(error).__name__, str(error)[:4096], traceback_of(error)
    raise AssertionError(body)


def main() -> None:
    for old in HERE.glob("*.txt"):
        old.unlink()
    for group, body in ERRORS.items():
        for number, (shift, n) in enumerate(((0, 3), (40, 17)), 1):
            kind, message, trace = raised(body, shift, n)
            trace = trace.replace(str(Path.cwd()), "/srv/app").replace(sys.prefix, "/opt/venv")
            trace = trace.replace(sys.base_prefix, "/usr")
            head = f"group: {group}\ntype: {kind}\nmessage: {json.dumps(message)}\n\n"
            (HERE / f"{group}-{number}.txt").write_text(head + trace, encoding="utf-8")


if __name__ == "__main__":
    main()
