"""The published `OrganicMinerClient` (compute-horde) against our miner, our executor and Docker behind it."""

import asyncio
import base64
import contextlib
import datetime
import io
import pathlib
import ssl
import tempfile
import urllib.request
import uuid
import zipfile

import bittensor_wallet
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
from compute_horde.protocol_messages import V0JobRequest  # noqa: E402
from compute_horde.protocol_consts import JobFailureReason, JobRejectionReason  # noqa: E402
from compute_horde.receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt  # noqa: E402
from compute_horde.receipts.schemas import JobStartedReceiptPayload  # noqa: E402
from compute_horde_core.certificate import generate_certificate, serialize_certificate  # noqa: E402
from compute_horde_core.executor_class import ExecutorClass  # noqa: E402
from compute_horde_core.output_upload import ZipAndHttpPutUpload  # noqa: E402
from compute_horde_core.streaming import StreamingDetails  # noqa: E402
from compute_horde_core.volume import InlineVolume  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: E402

from support import JOB_CLASS, JOB_IMAGE, development_keypair  # noqa: E402

RESERVATION_SECONDS = 7
STARTUP_SECONDS = 10


class WatchedClient(OrganicMinerClient):
    """The published client, remembering what it would only have logged."""

    def __init__(self, network, keypair=None):
        self.troubles = []
        self.streaming_ready = asyncio.Event()
        miner = network.facts["miners"][0]
        super().__init__(
            miner_hotkey=miner["hotkey"],
            miner_address=miner["address"],
            miner_port=miner["port"],
            job_uuid=str(uuid.uuid4()),
            my_keypair=keypair or development_keypair(network.facts["validator"]["hotkey"]),
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

    async def notify_streaming_readiness(self, msg):
        self.streaming = msg
        self.streaming_ready.set()


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


# A second validator: neither the network's validator nor one of its miners.
SECOND_VALIDATOR = "//Charlie//validator"

# The published wheels hold no check of excuses; this is the validator's rule (wire-miner-validator, section 7).
EXCUSE_LEEWAY = datetime.timedelta(seconds=2)


def valid_excuses(receipts, declined, active_validators):
    """Returns the jobs of those receipts that excuse the miner for declining a job with this started receipt."""
    valid = set()
    for receipt in receipts:
        payload = receipt.payload
        if (
            isinstance(payload, JobStartedReceiptPayload)
            and payload.miner_hotkey == declined.miner_hotkey
            and payload.job_uuid != declined.job_uuid
            and payload.validator_hotkey in active_validators
            and payload.executor_class == declined.executor_class
            and payload.timestamp < declined.timestamp
            and declined.timestamp < payload.timestamp + datetime.timedelta(seconds=payload.ttl) + EXCUSE_LEEWAY
            and receipt.verify_validator_signature()
        ):
            valid.add(payload.job_uuid)
    return valid


async def a_second_validator_is_declined_with_excuses_that_count(network, _files):
    second_keypair = bittensor_wallet.Keypair.create_from_uri(SECOND_VALIDATOR)
    network.register_validator(second_keypair.ss58_address)
    active = {network.facts["validator"]["hotkey"], second_keypair.ss58_address}
    async with contextlib.AsyncExitStack() as stack:
        manifest = None
        running = []
        # Every executor of the class gets a job of the first validator.
        while manifest is None or len(running) < manifest:
            client = await stack.enter_async_context(WatchedClient(network))
            job = details(client, "true")
            await client.send_initial_job_request(
                job, *client.generate_job_started_receipt_message(job.executor_class, RESERVATION_SECONDS)
            )
            await asyncio.wait_for(client.job_accepted_future, 10)
            manifest = (await asyncio.wait_for(client.miner_manifest, 10))[ExecutorClass(JOB_CLASS)]
            running.append(client)
        second = await stack.enter_async_context(WatchedClient(network, second_keypair))
        job = details(second, "true")
        payload, signature = second.generate_job_started_receipt_message(job.executor_class, RESERVATION_SECONDS)
        await second.send_initial_job_request(job, payload, signature)
        try:
            await asyncio.wait_for(second.job_accepted_future, 10)
            raise AssertionError("a job was accepted by a miner without a free executor")
        except MinerRejectedJob as rejection:
            declined = rejection.msg
        assert declined.reason == JobRejectionReason.BUSY, declined
        excuses = valid_excuses(declined.receipts, payload, active)
        assert excuses >= {client.job_uuid for client in running}, (excuses, declined)
        assert len(excuses) >= manifest, (excuses, manifest)
        assert all(receipt.verify_miner_signature() for receipt in declined.receipts), declined
        # The executors are freed by orders that end at once.
        for client in running:
            await asyncio.wait_for(client.executor_ready_future, 30)
            job = details(client, "true")
            order = V0JobRequest(
                job_uuid=client.job_uuid,
                executor_class=job.executor_class,
                docker_image=job.docker_image,
                docker_run_options_preset=job.docker_run_options_preset,
                docker_run_cmd=job.docker_run_cmd,
            )
            await client.send_model(order.signed(client.my_keypair))
            await asyncio.wait_for(client.job_finished_future, 30)
    # With a free executor the second validator is served.
    third = WatchedClient(network, second_keypair)
    assert (await execute(third, details(third, "echo served")))[0] == "served\n"


async def a_streaming_job_is_reached_where_the_miner_says(network, files):
    client = WatchedClient(network)
    certificate, key = generate_certificate("127.0.0.1")
    job = details(
        client,
        "mkdir -p /tmp/w; echo ok > /tmp/w/health; echo hi > /tmp/w/hello; busybox httpd -p 8000 -h /tmp/w;"
        " while [ ! -e /tmp/w/end ]; do sleep 0.2; [ $((n=n+1)) -gt 25 ] && break; done; echo done",
        streaming_details=StreamingDetails(public_key=serialize_certificate(certificate).decode()),
    )
    job.job_timing.streaming_start_time_limit = 30
    running = asyncio.create_task(execute(client, job))
    ready = asyncio.create_task(client.streaming_ready.wait())
    await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
    assert ready.done(), running.exception()
    server = client.streaming
    vouched = f"{client.job_uuid}:{server.ip}:{server.port}:{server.public_key}".encode()
    miner = bittensor_wallet.Keypair(ss58_address=client.miner_hotkey)
    assert miner.verify(vouched, bytes.fromhex(server.miner_signature.removeprefix("0x"))), server

    def hello(context):
        with urllib.request.urlopen(f"https://{server.ip}:{server.port}/hello", timeout=20, context=context) as answer:
            return answer.read()

    with tempfile.NamedTemporaryFile() as shown:
        shown.write(serialize_certificate(certificate))
        shown.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        shown.flush()
        context = ssl.create_default_context(cadata=server.public_key)
        context.load_cert_chain(shown.name)
        assert await asyncio.to_thread(hello, context) == b"hi\n"
    stdout, _, _, _ = await running
    assert stdout == "done\n", stdout
    assert not client.troubles, client.troubles


TESTS = [
    an_organic_job_runs_through_all_stages,
    the_single_timeout_mode_of_older_validators_works,
    a_failing_job_is_reported_with_its_streams,
    a_second_job_with_the_same_uuid_is_refused,
    a_second_validator_is_declined_with_excuses_that_count,
    a_streaming_job_is_reached_where_the_miner_says,
]
