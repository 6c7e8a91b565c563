"""The published `ComputeHordeClient` (compute-horde-sdk) against our facilitator."""

import asyncio
import hashlib
import http.client
import pathlib
import ssl
import tempfile
import uuid

import bittensor_wallet
from compute_horde_core.certificate import serialize_certificate
from compute_horde_sdk.v1 import (
    ComputeHordeClient,
    ComputeHordeError,
    ComputeHordeJobSpec,
    ComputeHordeJobStatus,
    ComputeHordeNotFoundError,
    ExecutorClass,
    HTTPInputVolume,
    HTTPOutputVolume,
    HuggingfaceInputVolume,
    InlineInputVolume,
)

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support import JOB_CLASS, JOB_IMAGE

ORDER = [
    ComputeHordeJobStatus.SENT,
    ComputeHordeJobStatus.RECEIVED,
    ComputeHordeJobStatus.ACCEPTED,
    ComputeHordeJobStatus.EXECUTOR_READY,
    ComputeHordeJobStatus.VOLUMES_READY,
    ComputeHordeJobStatus.EXECUTION_DONE,
    ComputeHordeJobStatus.COMPLETED,
]


def client(network):
    return ComputeHordeClient(
        hotkey=bittensor_wallet.Keypair.create_from_uri(network.facts["user"]["uri"]),
        compute_horde_validator_hotkey=network.facts["validator"]["hotkey"],
        facilitator_url=network.facts["facilitator"]["url"].rstrip("/") + "/",
    )


def spec(script, **more):
    return ComputeHordeJobSpec(
        executor_class=ExecutorClass(JOB_CLASS),
        job_namespace="horde.tests",
        docker_image=JOB_IMAGE,
        args=["sh", "-c", script],
        download_time_limit_sec=10,
        execution_time_limit_sec=20,
        upload_time_limit_sec=10,
        **more,
    )


async def a_job_with_volumes_uploads_and_artifacts_completes(network, files):
    payload = bytes(range(256)) * 400
    files.files["/numbers.bin"] = payload
    script = (
        'cat /volume/notes/greeting.txt; echo "$WHO"; sha256sum < /volume/numbers.bin; echo warned >&2;'
        " cat /volume/numbers.bin > /output/copy.bin; echo 42 > /artifacts/answer.txt"
    )
    seen = []
    job = await client(network).create_job(
        spec(
            script,
            env={"WHO": "grüß Gott, 世界"},
            artifacts_dir="/artifacts",
            input_volumes={
                "/volume/notes/": InlineInputVolume.from_file_contents("greeting.txt", b"hello road\n"),
                "/volume/numbers.bin": HTTPInputVolume(url=f"{files.url}/numbers.bin"),
            },
            output_volumes={
                "/output/copy.bin": HTTPOutputVolume(http_method="PUT", url=f"{files.url}/put/copy.bin"),
                "/output/stdout.txt": HTTPOutputVolume(
                    http_method="POST", url=f"{files.url}/post", form_fields={"key": "out/stdout.txt"}
                ),
            },
        )
    )
    assert job.status == ComputeHordeJobStatus.SENT or not job.status.is_failed(), job.status
    await job.wait(timeout=60, status_callback=lambda _, entry: seen.append(entry.status))

    assert job.status.is_successful(), (job.status, job.error)
    assert seen == ORDER, seen
    digest = hashlib.sha256(payload).hexdigest()
    assert job.result.stdout == f"hello road\ngrüß Gott, 世界\n{digest}  -\n", job.result.stdout
    assert job.result.stderr == "warned\n", job.result.stderr
    assert job.result.artifacts == {"/artifacts/answer.txt": b"42\n"}, job.result.artifacts

    command, headers, body = files.uploads["/put/copy.bin"]
    assert command == "PUT" and body == payload, (command, len(body))
    assert headers["content-length"] == str(len(payload)), headers
    command, headers, body = files.uploads["/post"]
    assert command == "POST" and headers["content-type"].startswith("multipart/form-data"), headers
    assert body.index(b'name="key"') < body.index(b'name="file"; filename="stdout.txt"'), body
    assert b"hello road" in body, body
    results = job.result.upload_results
    assert set(results) == {"/output/copy.bin", "/output/stdout.txt"}, results
    assert results["/output/copy.bin"].body == "stored", results
    assert results["/output/copy.bin"].headers["etag"] == '"kept"', results


async def a_failing_job_ends_failed_with_its_reason(network, _files):
    job = await client(network).create_job(spec("echo out; echo err >&2; exit 3", artifacts_dir="/artifacts"))
    await job.wait(timeout=60)
    assert job.status == ComputeHordeJobStatus.FAILED, (job.status, job.error)
    assert job.error.reason == "nonzero_return_code", job.error


async def run_until_complete_returns_the_finished_job(network, _files):
    job = await client(network).run_until_complete(
        # Without an artifacts_dir, the SDK's default.
        spec("echo again"), timeout=60, max_attempts=1
    )
    assert job.status.is_successful(), (job.status, job.error)
    assert job.result.stdout == "again\n", job.result


# A web server that tells when it is ready, and ends when its client asks for it.
WEB_SERVER = """
mkdir -p /tmp/w/cgi-bin
echo ok > /tmp/w/health
echo hi > /tmp/w/hello
printf '#!/bin/sh\\ntouch /tmp/over\\nprintf "\\\\r\\\\nbye"\\n' > /tmp/w/cgi-bin/terminate
chmod +x /tmp/w/cgi-bin/terminate
httpd -p 8000 -h /tmp/w
until [ -e /tmp/over ]; do sleep 0.1; done
sleep 0.5
echo ended
"""


def ask(job, path, certificate=None):
    """Asks a streaming job over TLS, trusting its certificate only; returns status and body."""
    context = ssl.create_default_context(cadata=job.streaming_server_cert)
    if certificate is not None:
        context.load_cert_chain(certificate)
    connection = http.client.HTTPSConnection(
        job.streaming_server_address, job.streaming_server_port, timeout=20, context=context
    )
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


async def a_streaming_job_is_reached_by_its_user_and_nobody_else(network, _files):
    user = client(network)
    seen = []
    # The first such job on a machine makes the image of its helper.
    job = await user.create_job(spec(WEB_SERVER, streaming=True, streaming_start_time_limit_sec=30))
    await job.wait_for_streaming(timeout=60)
    key = user.streaming_private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with tempfile.TemporaryDirectory() as directory:
        certificate = pathlib.Path(directory) / "client.pem"
        certificate.write_bytes(serialize_certificate(user.streaming_public_cert) + key)
        assert ask(job, "/hello", certificate) == (200, b"hi\n")
        assert ask(job, "/nothing", certificate)[0] == 404
        assert ask(job, "/hello")[0] == 400
        assert ask(job, "/cgi-bin/terminate", certificate) == (200, b"bye")
    await job.wait(timeout=60, status_callback=lambda _, entry: seen.append(entry.status))
    assert job.status.is_successful(), (job.status, job.error)
    assert job.result.stdout == "ended\n", job.result
    streaming_ready = ORDER.index(ComputeHordeJobStatus.VOLUMES_READY) + 1
    assert seen == [*ORDER[:streaming_ready], ComputeHordeJobStatus.STREAMING_READY, *ORDER[streaming_ready:]], seen


async def a_hugging_face_volume_comes_from_the_hub(network, files):
    files.hold_repository(
        "horde/model", {"config.json": b'{"layers": 2}\n', "weights/part.bin": bytes(5000), "README.md": b"not wanted\n"}
    )
    job = await client(network).run_until_complete(
        spec(
            "cat /volume/model/config.json; wc -c < /volume/model/weights/part.bin; ls /volume/model",
            input_volumes={
                "/volume/model": HuggingfaceInputVolume(
                    repo_id="horde/model", allow_patterns=["*.json", "weights/*"]
                )
            },
        ),
        timeout=60,
        max_attempts=1,
    )
    assert job.status.is_successful(), (job.status, job.error)
    assert job.result.stdout == '{"layers": 2}\n5000\nconfig.json\nweights\n', job.result.stdout


async def a_pair_of_jobs_runs_side_by_side(network, _files):
    user = client(network)
    pair = await asyncio.gather(*(user.create_job(spec(f"echo {name}; sleep 3")) for name in ("one", "two")))
    await asyncio.gather(*(job.wait(timeout=60) for job in pair))
    assert [job.result.stdout for job in pair] == ["one\n", "two\n"], pair
    begun = [moment(job, ComputeHordeJobStatus.VOLUMES_READY) for job in pair]
    ended = [moment(job, ComputeHordeJobStatus.COMPLETED) for job in pair]
    assert max(begun) < min(ended), (begun, ended)


def moment(job, status):
    return next(entry.created_at for entry in job.status_history if entry.status == status)


def jobs_of(network, role):
    return {job["job"] for job in network.ask(role, "miner", "jobs")}


async def a_job_on_the_trusted_miner_runs_there_and_nowhere_else(network, _files):
    job = await client(network).run_until_complete(
        spec("echo trusted"), on_trusted_miner=True, timeout=60, max_attempts=1
    )
    assert job.status.is_successful(), (job.status, job.error)
    assert job.result.stdout == "trusted\n", job.result
    assert job.uuid in jobs_of(network, "trusted-miner")
    for miner in ("miner-1", "miner-2"):
        assert job.uuid not in jobs_of(network, miner), miner


async def a_job_that_is_reported_as_cheated_costs_its_miner_further_jobs(network, _files):
    user = client(network)
    job = await user.run_until_complete(spec("echo 41"), timeout=60, max_attempts=1)
    trusted = await user.run_until_complete(spec("echo 42"), on_trusted_miner=True, timeout=60, max_attempts=1)
    await user.report_cheated_job(job.uuid, trusted.uuid, details={"expected": "42", "got": "ä41"})
    try:
        await user.report_cheated_job(job.uuid, trusted.uuid)
    except ComputeHordeError as problem:
        assert "Cheat report already exists" in str(problem), problem
    else:
        raise AssertionError("a job was reported twice")
    try:
        await user.report_cheated_job(trusted.uuid, trusted.uuid)
    except ComputeHordeNotFoundError:
        pass
    else:
        raise AssertionError("a job of the trusted miner was reported")
    for _ in range(100):
        reports = network.ask("validator", "validator", "cheats")
        if reports:
            break
        await asyncio.sleep(0.1)
    assert [report["job_uuid"] for report in reports] == [job.uuid], reports
    assert reports[0]["counts"] and reports[0]["slash_due"], reports
    assert reports[0]["details"] == {"expected": "42", "got": "ä41"}, reports
    listed = network.ask("validator", "validator", "blacklist")
    assert [entry["miner"] for entry in listed] == [reports[0]["miner"]], listed
    cheat, honest = sorted(("miner-1", "miner-2"), key=lambda miner: job.uuid not in jobs_of(network, miner))
    # Without the details, which is the SDK's default, it is taken as well.
    second = await user.run_until_complete(spec("echo 43"), timeout=60, max_attempts=1)
    assert second.uuid in jobs_of(network, honest) and second.uuid not in jobs_of(network, cheat)
    await user.report_cheated_job(second.uuid, trusted.uuid)
    # Now nobody is left.
    for _ in range(100):
        if len(network.ask("validator", "validator", "blacklist")) == 2:
            break
        await asyncio.sleep(0.1)
    third = await user.create_job(spec("echo 44"))
    await third.wait(timeout=60)
    assert third.status == ComputeHordeJobStatus.REJECTED, (third.status, third.error)
    assert third.error.reason == "no_miner_for_job", third.error


async def jobs_can_be_read_listed_and_iterated(network, _files):
    user = client(network)
    # More than the ten of one page.
    for _ in range(8):
        await user.create_job(spec("true"), on_trusted_miner=True)
    listed = await user.get_jobs(page=1, page_size=2)
    assert len(listed) == 2, listed
    iterated = [job async for job in user.iter_jobs()]
    network.jobs.update(job.uuid for job in iterated)
    assert len(iterated) > 10, iterated
    assert len({job.uuid for job in iterated}) == len(iterated), iterated
    # The newest ones are still on their way; the oldest has ended long ago.
    oldest = iterated[-1]
    read = await user.get_job(oldest.uuid)
    assert read.uuid == oldest.uuid and read.status == oldest.status, (read.status, oldest.status)


async def an_unknown_job_is_not_found(network, _files):
    try:
        await client(network).get_job(str(uuid.uuid4()))
    except ComputeHordeNotFoundError:
        return
    raise AssertionError("an unknown job was found")


TESTS = [
    a_job_with_volumes_uploads_and_artifacts_completes,
    a_failing_job_ends_failed_with_its_reason,
    run_until_complete_returns_the_finished_job,
    a_streaming_job_is_reached_by_its_user_and_nobody_else,
    a_hugging_face_volume_comes_from_the_hub,
    a_pair_of_jobs_runs_side_by_side,
    a_job_on_the_trusted_miner_runs_there_and_nowhere_else,
    a_job_that_is_reported_as_cheated_costs_its_miner_further_jobs,
    jobs_can_be_read_listed_and_iterated,
    an_unknown_job_is_not_found,
]
