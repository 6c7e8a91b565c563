"""The published `OrganicMinerClient` (compute-horde) against our miner, our executor and Docker behind it."""

import base64
import io
import pathlib
import tempfile
import uuid
import zipfile

import django
from django.conf import settings
from django.core.management import call_command

# The client keeps its receipts through Django, so it gets a database of its own.
RECEIPTS = tempfile.TemporaryDirectory(prefix="horde-receipts-")
settings.configure(
    INSTALLED_APPS=["compute_horde.receipts"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(pathlib.Path(RECEIPTS.name) / "receipts.sqlite"),
        }
    },
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
call_command("migrate", verbosity=0)

from compute_horde.miner_client.organic import (  # noqa: E402 - Django must be set up first
    MinerRejectedJob,
    MinerReportedJobFailed,
    OrganicJobDetails,
    OrganicMinerClient,
    execute_organic_job_on_miner,
)
from compute_horde.protocol_consts import JobFailureReason  # noqa: E402
from compute_horde.receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt  # noqa: E402
from compute_horde_core.executor_class import ExecutorClass  # noqa: E402
from compute_horde_core.output_upload import ZipAndHttpPutUpload  # noqa: E402
from compute_horde_core.volume import InlineVolume  # noqa: E402

from support import JOB_CLASS, JOB_IMAGE, development_keypair  # noqa: E402

RESERVATION_SECONDS = 7
STARTUP_SECONDS = 10


class WatchedClient(OrganicMinerClient):
    """The published client, remembering what it would only have logged."""

    def __init__(self, network):
        self.troubles = []
        miner = network.facts["miners"][0]
        super().__init__(
            miner_hotkey=miner["hotkey"],
            miner_address=miner["address"],
            miner_port=miner["port"],
            job_uuid=str(uuid.uuid4()),
            my_keypair=development_keypair(network.facts["validator"]["hotkey"]),
        )
        network.jobs.add(self.job_uuid)

    async def notify_generic_error(self, msg):
        self.troubles.append(msg)

    async def notify_unauthorized_error(self, msg):
        self.troubles.append(msg)

    async def notify_receipt_failure(self, comment):
        self.troubles.append(comment)

    async def notify_send_failure(self, msg):
        self.troubles.append(msg)


def details(client, script, **more):
    return OrganicJobDetails(
        job_uuid=client.job_uuid,
        executor_class=ExecutorClass(JOB_CLASS),
        docker_image=JOB_IMAGE,
        docker_run_options_preset="none",
        docker_run_cmd=["sh", "-c", script],
        job_timing=OrganicJobDetails.TimingDetails(
            allowed_leeway=5,
            download_time_limit=10,
            execution_time_limit=20,
            upload_time_limit=10,
            streaming_start_time_limit=5,
        ),
        **more,
    )


async def execute(client, job):
    return await execute_organic_job_on_miner(client, job, RESERVATION_SECONDS, STARTUP_SECONDS)


async def an_organic_job_runs_through_all_stages(network, files):
    client = WatchedClient(network)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("input/line.txt", "from the volume\n")
    job = details(
        client,
        'cat /volume/input/line.txt; echo "$MOOD" >&2; echo kept > /artifacts/a.txt; echo zipped > /output/b.txt',
        env={"MOOD": "calm"},
        artifacts_dir="/artifacts",
        volume=InlineVolume(contents=base64.b64encode(zipped.getvalue()).decode()),
        output=ZipAndHttpPutUpload(url=f"{files.url}/zip"),
    )
    stdout, stderr, artifacts, upload_results = await execute(client, job)

    assert stdout == "from the volume\n", stdout
    assert stderr == "calm\n", stderr
    assert artifacts == {"/artifacts/a.txt": base64.b64encode(b"kept\n").decode()}, artifacts
    assert set(upload_results) == {"output.zip"}, upload_results
    with zipfile.ZipFile(io.BytesIO(files.uploads["/zip"][2])) as archive:
        assert archive.read("b.txt") == b"zipped\n", archive.namelist()
        assert archive.read("stdout.txt") == b"from the volume\n", archive.namelist()
    assert client.miner_manifest.result()[ExecutorClass(JOB_CLASS)] >= 1, client.miner_manifest
    assert not client.troubles, client.troubles
    for receipts in (JobStartedReceipt, JobAcceptedReceipt, JobFinishedReceipt):
        assert await receipts.objects.filter(job_uuid=client.job_uuid).acount() == 1, receipts


async def the_single_timeout_mode_of_older_validators_works(network, _files):
    client = WatchedClient(network)
    job = details(client, "echo one limit", total_job_timeout=30)
    job.job_timing = None
    stdout, _, _, _ = await execute(client, job)
    assert stdout == "one limit\n", stdout
    assert not client.troubles, client.troubles


async def a_failing_job_is_reported_with_its_streams(network, _files):
    client = WatchedClient(network)
    try:
        await execute(client, details(client, "echo out; echo err >&2; exit 3"))
    except MinerReportedJobFailed as failure:
        message = failure.msg
        assert message.reason == JobFailureReason.NONZERO_RETURN_CODE, message
        assert message.docker_process_exit_status == 3, message
        assert message.docker_process_stdout == "out\n", message
        assert message.docker_process_stderr == "err\n", message
        return
    raise AssertionError("a failing job was reported as finished")


async def a_second_job_with_the_same_uuid_is_refused(network, _files):
    first = WatchedClient(network)
    await execute(first, details(first, "true"))
    second = WatchedClient(network)
    second.job_uuid = first.job_uuid
    job = details(second, "true")
    async with second:
        payload, signature = second.generate_job_started_receipt_message(job.executor_class, RESERVATION_SECONDS)
        await second.send_initial_job_request(job, payload, signature)
        try:
            await second.job_accepted_future
        except MinerRejectedJob:
            return
    raise AssertionError("the same job was accepted twice")


TESTS = [
    an_organic_job_runs_through_all_stages,
    the_single_timeout_mode_of_older_validators_works,
    a_failing_job_is_reported_with_its_streams,
    a_second_job_with_the_same_uuid_is_refused,
]
