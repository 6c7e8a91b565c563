"""Runs the published Python clients against `horde up`; $HORDE names the binary under test."""

import os
import sys
import tempfile

# The packages write settings and keys below HOME when they are imported.
HOME = tempfile.TemporaryDirectory(prefix="horde-home-")
os.environ["HOME"] = HOME.name

from support import FileServer, Network, Runner, containers_of  # noqa: E402 - HOME first


def main():
    runner = Runner()
    exit_code = None
    try:
        with FileServer() as files, Network(files.url) as network:
            import miner_client
            import sdk_client

            for module in (sdk_client, miner_client):
                for test in module.TESTS:
                    if not runner.run(f"{module.__name__}::{test.__name__}", lambda t=test: t(network, files)):
                        print(network.log_text(), flush=True)
            exit_code = network.stop()
            jobs = network.jobs
    except AssertionError as problem:
        problem = str(problem)
        runner.run("network", lambda: fail(problem))
        return runner.close()
    runner.run("up::ends_well_on_ctrl_c", lambda: equal(exit_code in (0, 130), True))
    runner.run("up::ran_the_jobs_of_both_clients", lambda: equal(len(jobs) >= 7, True))
    runner.run("up::leaves_no_container_behind", lambda: equal(containers_of(jobs), []))
    return runner.close()


def fail(problem):
    raise AssertionError(problem)


def equal(got, wanted):
    assert got == wanted, f"got {got}, expected {wanted}"


if __name__ == "__main__":
    sys.exit(main())
