"""`python -m kdjax.main` that notices the death of another process within seconds."""

import runpy

from kdjax.runtime import multihost

multihost.HEARTBEAT_SECONDS = 6

if __name__ == "__main__":
    runpy.run_module("kdjax.main", run_name="__main__", alter_sys=True)
