"""Python functions as a source: a module's typed public functions, run on the loop or on bounded threads.

What `FunctionSource.call` knows about the effect, in the order things can go wrong:

    NONE     unknown tool, deadline already past, no free slot, arguments that do not convert, or `NotDone`
    DONE     it returned; with `error` set and `value` None when the value is not of its declared type:
             the effect happened, its report cannot be used
    UNKNOWN  any other exception, or no return by the deadline

Nothing queues in here: a call that finds no slot is answered at once (`meta["overloaded"]`), so that nothing
can start after a halt that came while it waited.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from pydantic import ValidationError

from comptroller_audit.ambient import Clock, SystemClock
from comptroller_tools.errors import NotDone, SourceInvalid, TryAgain
from comptroller_tools.signatures import EffectKey, OutputInvalid, ToolContext, ToolFunction, read_function
from comptroller_tools.source import Action, EffectHappened, Outcome, ToolDefinition
from comptroller_tools.threads import WorkerThreads
from comptroller_tools.validation import screen

__all__ = ["EffectKey", "FunctionSource", "ToolContext", "load_target"]

THREADS_MAX = 64
"""Sync functions that may run at once in one source, those that hang included."""

TASKS_MAX = 256
"""Async functions that may run at once in one source, those that ignore cancellation included."""

CANCEL_GRACE_S = 0.5
"""How long a cancelled async function may take to say what it did."""

CONVERSION_PROBLEMS_MAX = 5
PROBLEM_CHARS_MAX = 200
TOLD_CHARS_MAX = 2_000

_FILE_TARGET = re.compile(r"^(?P<file>.+\.py)(?::(?P<name>\w+))?$")
_MODULE_TARGET = re.compile(r"^(?P<module>\w+(?:\.\w+)*)(?::(?P<name>\w+))?$")


class FunctionSource:
    """The public functions of one module, as tools.

    `target` is `package.module`, `package.module:name`, or a file path `./tools.py` or `./tools.py:name`
    (relative to `base_dir`). Without `:name` it offers what `__all__` lists, else every function the module
    itself defines whose name has no leading underscore. Raises `SourceInvalid` with every problem at once.
    """

    def __init__(
        self,
        name: str,
        target: str,
        *,
        base_dir: Path | None = None,
        clock: Clock | None = None,
        threads_max: int = THREADS_MAX,
        tasks_max: int = TASKS_MAX,
    ) -> None:
        self._name = name
        self._clock: Clock = clock or SystemClock()
        self._tasks_max = tasks_max
        where = f"sources.{name}.python"
        module, only = load_target(where, target, base_dir or Path.cwd())
        self._tools = _read_tools(where, module, only)
        self._identity = {
            "transport": "python",
            "target": target,
            "code_sha256": _code_digest(module, self._tools),
        }
        self._threads = WorkerThreads(f"tool-{name}", threads_max)
        self._running: set[asyncio.Task[Outcome]] = set()
        self._closed = False

    @property
    def name(self) -> str:
        return self._name

    @property
    def identity(self) -> Mapping[str, Any]:
        """The target as configured and the SHA-256 of the code of its tools: other code is another source."""
        return self._identity

    @property
    def busy(self) -> int:
        """Functions running now, those included that outlived their deadline and still hold a slot."""
        return len(self._running) + self._threads.busy

    def definitions(self) -> Mapping[str, ToolDefinition]:
        return {name: tool.definition for name, tool in self._tools.items()}

    async def call(self, action: Action, deadline: float) -> Outcome:
        """Run `action.tool` until `deadline` (monotonic seconds). Raises nothing but `CancelledError`.

        There is no await before the function is handed over: the caller's last check still holds then.
        """
        tool = self._tools.get(action.tool)
        remaining = deadline - self._clock.monotonic()
        if tool is None:
            return _nothing(f"source `{self._name}` has no tool `{action.tool}`")
        if self._closed:
            return _nothing(f"source `{self._name}` is closed")
        if remaining <= 0:
            return _nothing("the deadline had passed before the function was entered")
        loop = asyncio.get_running_loop()
        context = ToolContext(action, deadline, loop)
        try:
            values = tool.bind(action.arguments, context)
        except ValidationError as error:
            return _nothing("the arguments do not convert to the function's types", told=_conversion(error))
        except BaseException as error:  # noqa: BLE001 -- a validator is the user's own code
            return _nothing(f"a validator of the arguments raised {type(error).__name__}")
        try:
            if tool.is_async:
                return await self._on_the_loop(tool, values, remaining)
            return await self._on_a_thread(tool, values, remaining, loop)
        finally:
            context.close()

    async def close(self) -> None:
        """Cancel what still runs on the loop, wait `CANCEL_GRACE_S` for it, and let idle threads end."""
        self._closed = True
        self._threads.close()
        running = set(self._running)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=CANCEL_GRACE_S)

    async def _on_the_loop(self, tool: ToolFunction, values: dict[str, Any], remaining: float) -> Outcome:
        if len(self._running) >= self._tasks_max:
            return _overloaded(self._name)
        task = asyncio.create_task(_enter_async(tool, values))
        # The set keeps a task that ignores cancellation alive, and its slot taken, until it ends.
        self._running.add(task)
        try:
            if not await _ended(task, remaining):
                task.cancel()
                await _ended(task, CANCEL_GRACE_S)
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            if task.done():
                self._running.discard(task)
            else:
                task.add_done_callback(self._running.discard)
        if not task.done() or task.cancelled():
            return _out_of_time(task)
        return task.result()

    async def _on_a_thread(
        self, tool: ToolFunction, values: dict[str, Any], remaining: float, loop: asyncio.AbstractEventLoop
    ) -> Outcome:
        answer: asyncio.Future[Outcome] = loop.create_future()
        carried = contextvars.copy_context()

        def deliver(outcome: Outcome) -> None:
            if not answer.done():
                answer.set_result(outcome)

        def run() -> Callable[[], None]:
            outcome = carried.run(_enter_sync, tool, values)
            return lambda: _post(loop, deliver, outcome)

        if not self._threads.start(run):
            return _overloaded(self._name)
        return answer.result() if await _ended(answer, remaining) else _out_of_time(answer)


def _post(loop: asyncio.AbstractEventLoop, deliver: Callable[[Outcome], None], outcome: Outcome) -> None:
    # A closed loop means the server is gone and recovery has the call; there is nobody to tell.
    try:
        loop.call_soon_threadsafe(deliver, outcome)
    except RuntimeError:
        return


async def _ended(work: asyncio.Future[Outcome], within_s: float) -> bool:
    """Whether `work` ends within that time. It is left alone in any case: `asyncio.wait` for one, at half its price."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    work.add_done_callback(wake)
    timer = loop.call_later(within_s, wake)
    try:
        await waiter
    finally:
        timer.cancel()
        work.remove_done_callback(wake)
    return work.done()


async def _enter_async(tool: ToolFunction, values: dict[str, Any]) -> Outcome:
    try:
        value = await tool.function(**values)
    except asyncio.CancelledError:
        return _out_of_time()
    except BaseException as error:  # noqa: BLE001 -- SystemExit and KeyboardInterrupt would end the server
        return _raised(error)
    return _returned(tool, value)


def _enter_sync(tool: ToolFunction, values: dict[str, Any]) -> Outcome:
    try:
        value = tool.function(**values)
    except BaseException as error:  # noqa: BLE001 -- on this thread nothing else can be meant for us
        return _raised(error)
    return _returned(tool, value)


def _returned(tool: ToolFunction, value: Any) -> Outcome:
    try:
        return Outcome(EffectHappened.DONE, value=tool.output(value))
    except OutputInvalid as invalid:
        error = f"`{tool.definition.name}` returned something that is not its declared type ({invalid})"
    except BaseException as raised:  # noqa: BLE001 -- a serializer is the user's own code
        error = f"the result of `{tool.definition.name}` could not be read ({type(raised).__name__})"
    return Outcome(EffectHappened.DONE, error=error, meta={"output_invalid": True})


def _raised(error: BaseException) -> Outcome:
    if isinstance(error, NotDone):
        return Outcome(
            EffectHappened.NONE,
            error="the function says nothing was done",
            told_model=str(error)[:TOLD_CHARS_MAX],
            meta={"temporary": isinstance(error, TryAgain)},
        )
    # Only the type: an exception's message can carry anything, a record or a password included.
    return Outcome(EffectHappened.UNKNOWN, error=f"the function raised {type(error).__name__}")


def _nothing(error: str, *, told: str | None = None) -> Outcome:
    return Outcome(EffectHappened.NONE, error=error, told_model=told)


def _overloaded(name: str) -> Outcome:
    error = f"every slot of source `{name}` is taken; nothing was started"
    return Outcome(EffectHappened.NONE, error=error, meta={"overloaded": True})


def _out_of_time(running: asyncio.Future[Outcome] | None = None) -> Outcome:
    error = "the function had not returned by its deadline; it may still be running"
    return Outcome(EffectHappened.UNKNOWN, error=error, meta={"timeout": True}, running=running)


def _conversion(error: ValidationError) -> str:
    """What the model should change: places and pydantic's sentences, never the values."""
    lines = [
        f"`{'.'.join(map(str, problem['loc'])) or 'arguments'}`: {problem['msg']}"[:PROBLEM_CHARS_MAX]
        for problem in error.errors(include_input=False, include_url=False, include_context=False)
    ]
    return "; ".join(lines[:CONVERSION_PROBLEMS_MAX])


def load_target(where: str, target: str, base_dir: Path) -> tuple[ModuleType, str | None]:
    """The module that `target` names and the single function asked for, if any. Raises `SourceInvalid`."""
    if found := _FILE_TARGET.match(target):
        return _load_file(where, base_dir / Path(found["file"]).expanduser()), found["name"]
    if not (found := _MODULE_TARGET.match(target)):
        raise SourceInvalid(
            f"{where}: `{target}` is no module or file; write `package.module`, `./tools.py`, or either with `:name`"
        )
    try:
        return importlib.import_module(found["module"]), found["name"]
    except (Exception, SystemExit) as error:
        raise SourceInvalid(
            f"{where}: importing `{found['module']}` failed with {type(error).__name__}: {error}; "
            "install it beside Comptroller, or name its file as `./tools.py`"
        ) from error


_FROM_FILE = "comptroller_source_"


class _FromSource(SourceFileLoader):
    """Runs what the file says now. A cache is believed by second and size: it may hold other code, or anybody's."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _load_file(where: str, path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise SourceInvalid(f"{where}: there is no file {path}; paths are relative to the configuration file")
    name = f"{_FROM_FILE}{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    if spec is None or spec.loader is None:
        raise SourceInvalid(f"{where}: {path} cannot be loaded as a Python module")
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs, as `import` does: annotations are resolved through sys.modules. Its folder is
    # not put on sys.path, where a file of the user's could stand in for any later import.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise SourceInvalid(
            f"{where}: {path} does not load: {type(error).__name__}: {error}; "
            "it must import on its own, from installed packages only"
        ) from error
    return module


def _read_tools(where: str, module: ModuleType, only: str | None) -> dict[str, ToolFunction]:
    tools: dict[str, ToolFunction] = {}
    problems: list[str] = []
    for name, function in _candidates(where, module, only).items():
        read = read_function(name, function)
        if isinstance(read, ToolFunction):
            problems += [f"{where}: {problem}" for problem in screen(read.definition)]
            tools[read.definition.name] = read
        else:
            problems += [f"{where}: function `{name}` {problem}" for problem in read]
    if problems:
        hint = "a function that is no tool gets a leading underscore or stays out of `__all__`"
        raise SourceInvalid("\n".join([*problems, hint]))
    return tools


def _candidates(where: str, module: ModuleType, only: str | None) -> dict[str, Callable[..., Any]]:
    """Name to function, in the module's own order."""
    listed: list[str] | None = [only] if only else getattr(module, "__all__", None)
    if listed is None:
        return {
            name: value
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
        } or _no_functions(where, module)
    missing = [name for name in listed if not hasattr(module, name)]
    if missing:
        raise SourceInvalid(f"{where}: {_called(module)} has no `{'`, `'.join(missing)}`; name what it has")
    functions = {name: getattr(module, name) for name in listed if inspect.isfunction(getattr(module, name))}
    if only and not functions:
        raise SourceInvalid(f"{where}: `{only}` in {_called(module)} is no function; name a `def`")
    return functions or _no_functions(where, module)


def _no_functions(where: str, module: ModuleType) -> dict[str, Callable[..., Any]]:
    raise SourceInvalid(
        f"{where}: {_called(module)} has no public function; define one or list it in `__all__`"
    )


def _called(module: ModuleType) -> str:
    """The module as the configuration names it: one from a file has a name that nobody wrote."""
    return str(module.__file__) if module.__name__.startswith(_FROM_FILE) else f"`{module.__name__}`"


def _code_digest(module: ModuleType, tools: Mapping[str, ToolFunction]) -> str:
    """SHA-256 (hex) of the module's file; of all their files when its tools are defined in other modules too."""
    elsewhere = {str(tool.function.__module__) for tool in tools.values()} - {module.__name__}
    modules = [module, *(sys.modules[name] for name in sorted(elsewhere) if name in sys.modules)]
    paths = [getattr(each, "__file__", None) for each in modules]
    digests = [hashlib.sha256(Path(path).read_bytes() if path else b"").digest() for path in paths]
    return (digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()).hex()
