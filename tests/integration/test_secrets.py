"""What a trace file must not hold: the environment but for a whitelist, arguments, paths, and values of the program."""

import wanhook
from programs import run_program
from recorded import paths
from wanhook.tracefile import format as layout

SECRET = b"hunter2hunter2"


def texts(content: bytes) -> bytes:
    """Texts without the heads of the Text records, between which a word may be cut."""
    slots = [content[at : at + 64] for at in range(layout.HEADER_BYTES, len(content), 64)]
    pieces = [slot for slot in slots if slot[0] == layout.Kind.TEXT]
    return b"".join(piece[4 : 4 + int.from_bytes(piece[2:4], "little")] for piece in pieces)


def surroundings(content: bytes) -> bytes:
    """The secret and what is around it; b"" when it is not there."""
    found = content.find(SECRET)
    return b"" if found < 0 else content[max(found - 100, 0) : found + 50]


def test_planted_secrets_are_not_in_the_files(tmp_path):
    secret = SECRET.decode()
    directory = tmp_path / f"home-of-{secret}"
    variables = {
        "WANHOOK_OUT": str(directory / "run"),
        "HF_TOKEN": secret,
        "WANDB_API_KEY": secret,
        "AWS_SECRET_ACCESS_KEY": secret,
        "MY_NCCL_DEBUG": secret,
        "nccl_debug": secret,
        "PROMPT": secret,
        "PATH_OF_NCCL_": secret,
        "NCCL_TOPO_FILE": f"/home/{secret}/topology.xml",
        "TORCH_HOME": f"/home/{secret}",
        "WAN_CHECKPOINTS": f"./{secret}/low_noise_model",
        "NCCL_DEBUG": "WARN",
        "OMP_NUM_THREADS": "1",
    }
    ended = run_program("secrets_everywhere", directory, "--prompt", secret, **variables)
    assert ended.returncode == 0, ended.errors
    run = wanhook.load(directory / "run")
    assert [paths(trace) for trace in run] == [
        ["request", "request/generate", "request/fails"],
        [],
        ["request", "request/generate", "request/fails"],
    ]
    for trace in run:
        assert trace.meta["environment"]["NCCL_DEBUG"] == "WARN"
        assert trace.meta["environment"]["NCCL_TOPO_FILE"] == "<path>"
        content = trace.path.read_bytes()
        assert b"NCCL_TOPO_FILE" in texts(content)
        assert surroundings(content) == surroundings(texts(content)) == b""
