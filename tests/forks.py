"""Commands of the tests, each run in a fork of a process that has imported the libraries, as imports take most time.

The same file is both ends: `serve` is that process, and copies of the file named python, dvc and ditf, first on a
command's PATH, have it run them. Each fork has the caller's folder, environment, arguments and standard streams.
There are two: the full one has imported all that runs a model, the light one neither that nor torch.
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

LIGHT, FULL = "light", "full"  # the folders of the two
MODULES = (
    "dask.distributed",
    "ditf.cli.app",
    "ditf.cli.results",
    "ditf.project.search",
    "ditf.project.upkeep",
    "ditf.report",
    "dvc.cachemgr",
    "dvc.cli.parser",
    "dvc.data_cloud",
    "dvc.lock",
    "dvc.repo",
    "dvc.repo.index",
    "dvc.repo.reproduce",
    "dvc.scm",
    "faiss",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "networkx",
    "ruamel.yaml",
    "scipy.stats",
)
MODEL_MODULES = (
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.pipelines.flux.pipeline_flux",
    "ditf.features.extract",
    "ditf.features.text",
    "transformers.models.clip.modeling_clip",
    "transformers.models.t5.modeling_t5",
)
ADDRESS, LOG = "forks.sock", "log.txt"


def start(home: Path, owner: int) -> None:
    """Write the commands into two folders in `home` and start their servers, which end with the process `owner`."""
    huge_pages = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # a fork copies their table
    for kind in (LIGHT, FULL):
        folder = home / kind
        folder.mkdir(parents=True)
        for name in ("python", "dvc", "ditf"):
            path = folder / name
            path.write_text(f"#!{sys.executable} -IS\n{Path(__file__).read_text()}")
            path.chmod(0o755)
        with (folder / LOG).open("w") as log:
            command = [sys.executable, __file__, str(folder), str(owner)]
            subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | huge_pages)


def wait_for(folder: Path) -> Path:
    """The folder, once its server takes commands. Raises `RuntimeError` where that has failed."""
    end = time.monotonic() + 240
    while not (folder / ADDRESS).exists():
        log = (folder / LOG).read_text() if (folder / LOG).exists() else ""
        if "Traceback" in log or time.monotonic() > end:
            raise RuntimeError(log)
        time.sleep(0.1)
    return folder


def ask(folder: Path) -> int:
    """Have a command run by the server; the exit status of the command."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / ADDRESS))
        request = json.dumps({"argv": sys.argv, "cwd": str(Path.cwd()), "environment": dict(os.environ)}).encode()
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(request)
        return int.from_bytes(connection.recv(1) or b"\1", "big")


def serve(folder: Path, owner: int) -> None:
    """Run commands until the process `owner` ends."""
    import atexit
    import gc
    import importlib
    import weakref

    gc.disable()  # a fifth of the imports' time
    for name in MODULES if folder.name == LIGHT else (*MODULES, *MODEL_MODULES):
        importlib.import_module(name)
    importlib.import_module("ditf.config.params").load_params(
        Path(__file__).parents[1] / "params.yaml"
    )  # imports its types
    if folder.name == LIGHT:
        assert not {"torch", "diffusers", "transformers"} & sys.modules.keys()
    read_yaml_once()
    if folder.name == FULL:
        atexit.unregister(sys.modules["torch._dynamo.utils"].dump_compile_times)  # a twentieth of a second
    for each in weakref.finalize._registry:  # type: ignore[attr-defined]
        each.atexit = False  # of what imports made, which lasts a fork's life
    gc.freeze()  # so that collections in forks leave the memory shared
    gc.set_threshold(100_000)  # a twentieth of the time of all tests
    gc.enable()
    server = socket.socket(socket.AF_UNIX)
    unready = folder / f"{ADDRESS}.unready"
    server.bind(str(unready))
    server.listen(64)
    unready.rename(folder / ADDRESS)
    with selectors.DefaultSelector() as events:
        events.register(server, selectors.EVENT_READ, partial(begin, server, events))
        events.register(os.pidfd_open(owner), selectors.EVENT_READ, partial(os._exit, 0))
        while True:  # one at a time, as an event may end what others are of
            events.select()[0][0].data()


def read_yaml_once() -> None:
    """DVC parses params.yaml and dvc.lock for each stage: here a text is parsed once, and dvc.lock is JSON, as YAML
    may be, which takes a tenth of the time."""
    import pickle
    from contextlib import contextmanager
    from typing import Any

    from dvc import dvcfile
    from dvc.utils import strictyaml
    from dvc.utils.serialize import _yaml, modify_yaml, parse_yaml

    parsed: dict[str, bytes] = {}

    def parse(text: str, path: str, typ: str = "safe") -> Any:
        if text.startswith("{"):
            return json.loads(text)
        if typ != "safe":  # as it is edited, with its comments
            return parse_yaml(text, path, typ)
        if text not in parsed:
            parsed[text] = pickle.dumps(parse_yaml(text, path))
        return pickle.loads(parsed[text])

    @contextmanager
    def modify(path: str, fs: Any = None) -> Any:
        lock = Path(path)
        if lock.name != dvcfile.LOCK_FILE:
            with modify_yaml(path, fs=fs) as data:
                yield data
            return
        data = parse(lock.read_text(), path) if lock.exists() else {}
        yield data
        lock.write_text(json.dumps(data))

    dvcfile.modify_yaml = modify
    strictyaml.parse_yaml = _yaml.parse_yaml = parse


def begin(server: socket.socket, events: selectors.BaseSelector) -> None:
    """Run a command in a fork, and report its exit status; a caller that is killed takes the command with it."""
    connection, _ = server.accept()
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    length, received = int.from_bytes(head, "big"), b""
    while len(received) < length and (part := connection.recv(length - len(received))):
        received += part
    if not length or len(received) < length:  # the caller was killed while it asked
        close([connection.detach(), *streams])
        return
    command = os.fork()
    if command == 0:
        close([connection.detach(), *(event.fd for event in events.get_map().values())])
        events.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        close(streams)
        finish(partial(run, **json.loads(received)))
    close(streams)
    ended = os.pidfd_open(command)

    def report() -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        events.unregister(ended)
        if connection in events.get_map():
            events.unregister(connection)
            with suppress(BrokenPipeError):
                connection.sendall(bytes([code if code >= 0 else 128 - code]))
        close([ended, connection.detach()])

    def end() -> None:
        events.unregister(connection)
        os.kill(command, signal.SIGKILL)

    events.register(ended, selectors.EVENT_READ, report)
    events.register(connection, selectors.EVENT_READ, end)


def close(descriptors: Iterable[int]) -> None:
    for each in descriptors:
        os.close(each)


def finish(work: Callable[[], object]) -> NoReturn:
    """End this process as Python ends when `work` has run, but for freeing memory that it shares."""
    import atexit
    import threading
    import traceback

    code: int | str | None = 0
    try:
        work()
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        traceback.print_exception(error)
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if isinstance(code, str) else int(code or 0))


def run(argv: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Run a command in this process, as Python would in a new one."""
    import importlib.metadata
    import runpy

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    name, arguments = Path(argv[0]).name, argv[1:]
    sys.executable = str(Path(argv[0]).with_name("python"))
    sys.path[:1] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    if name != "python":
        sys.argv = [name, *arguments]
        (entry,) = importlib.metadata.entry_points(group="console_scripts", name=name)
        sys.exit(entry.load()())
    sys.path.insert(0, cwd)
    option, given, *rest = arguments
    sys.argv = [option, *rest]
    if option == "-c":
        exec(compile(given, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(given, run_name="__main__", alter_sys=True)


def main() -> None:
    if Path(sys.argv[0]).name == Path(__file__).name and sys.argv[0].endswith(".py"):
        serve(Path(sys.argv[1]), int(sys.argv[2]))
    elif Path(sys.argv[0]).name == "python" and sys.argv[1] not in ("-c", "-m"):
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    else:
        sys.exit(ask(Path(__file__).parent))


if __name__ == "__main__":
    main()
