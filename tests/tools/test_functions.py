"""A module's typed functions as a source: what it offers, what it refuses to load, what it knows of an effect."""

from __future__ import annotations

import asyncio
import os
import py_compile
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from comptroller_tools.errors import SourceInvalid
from comptroller_tools.functions import FunctionSource
from comptroller_tools.source import Action, EffectHappened, Outcome
from comptroller_tools.validation import compile_schema

pytestmark = pytest.mark.anyio

HEADER = """
from __future__ import annotations
import asyncio, threading, time
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any
from pydantic import BaseModel, Field, field_validator
from comptroller_tools.errors import NotDone
from comptroller_tools.functions import EffectKey, ToolContext
"""

Offer = Callable[..., FunctionSource]


@pytest.fixture
def offer(tmp_path: Path) -> Offer:
    """`offer(body, …)` is a source over a file with that body."""

    def build(body: str, *, name: str = "", **options: Any) -> FunctionSource:
        (tmp_path / "mine.py").write_text(HEADER + textwrap.dedent(body))
        return FunctionSource("mine", f"./mine.py{name}", base_dir=tmp_path, **options)

    return build


async def run(source: FunctionSource, tool: str, within_s: float = 30, **arguments: Any) -> Outcome:
    return await source.call(Action(tool, arguments, "call-7"), time.monotonic() + within_s)


async def busy(source: FunctionSource, count: int) -> None:
    """Wait until that many functions run: the source has no event for it, and needs none."""
    while source.busy != count:  # noqa: ASYNC110 -- see above
        await asyncio.sleep(0.001)


def problems_of(offer: Offer, body: str) -> str:
    with pytest.raises(SourceInvalid) as caught:
        offer(body)
    return str(caught.value)


async def test_only_public_functions_the_module_itself_defines_are_offered(offer: Offer) -> None:
    source = offer(
        """
        from textwrap import dedent
        class Model(BaseModel): pass
        def _hidden(x): ...
        def second(a: int) -> int: return a
        async def first(a: int) -> int: return a
        """
    )
    assert list(source.definitions()) == ["second", "first"]


async def test_all_decides_what_is_offered_when_it_is_there(offer: Offer) -> None:
    source = offer(
        """
        __all__ = ["shown", "Model"]
        class Model(BaseModel): pass
        def shown() -> int: return 1
        def untyped(a): ...
        """
    )
    assert list(source.definitions()) == ["shown"]


async def test_a_single_function_can_be_named(offer: Offer) -> None:
    body = "def one() -> int: return 1\ndef two() -> int: return 2\n"
    assert list(offer(body, name=":two").definitions()) == ["two"]
    with pytest.raises(SourceInvalid, match="no `three`"):
        offer(body, name=":three")


async def test_the_fields_of_a_single_model_are_the_arguments(offer: Offer) -> None:
    source = offer(
        '''
        class Why(StrEnum):
            A = "a"
        class RefundRequest(BaseModel):
            invoice_id: str
            amount: Decimal = Field(gt=0, multiple_of=Decimal("0.01"))
            why_code: Why
        def refund(request: RefundRequest, effect_key: Annotated[str, EffectKey], context: ToolContext) -> str:
            """Pay back.

            In full or in part.
            """
            return f"{request.invoice_id} {request.amount} {effect_key} {context.effect_key}"
        '''
    )
    tool = source.definitions()["refund"]
    assert tool.description == "Pay back.\n\nIn full or in part."
    assert tool.stores_effect_key
    assert tool.input_schema["title"] == "RefundRequest"
    assert list(tool.input_schema["properties"]) == ["invoice_id", "amount", "why_code"]
    assert tool.input_schema["properties"]["amount"] == {
        "type": "number",
        "exclusiveMinimum": 0.0,
        "multipleOf": 0.01,
    }
    assert tool.input_schema["additionalProperties"] is False
    outcome = await run(source, "refund", invoice_id="i1", amount=12.35, why_code="a")
    assert outcome == Outcome(EffectHappened.DONE, value={"result": "i1 12.35 call-7 call-7"})


async def test_parameters_may_have_any_name_default_and_description(offer: Offer) -> None:
    source = offer(
        """
        async def add(schema: int, copy: Annotated[int, Field(ge=1, description="how many")] = 3,
                      *, _x: list[int] = []) -> int:
            return schema * copy + sum(_x)
        """
    )
    schema = source.definitions()["add"].input_schema
    assert schema["required"] == ["schema"]
    assert schema["properties"]["copy"] == {
        "type": "integer", "minimum": 1, "default": 3, "description": "how many",
    }  # fmt: skip
    assert (await run(source, "add", schema=2)).value == {"result": 6}
    assert (await run(source, "add", schema=2, copy=1, _x=[5])).value == {"result": 7}


async def test_no_model_at_any_depth_takes_unknown_properties(offer: Offer) -> None:
    source = offer(
        """
        class Line(BaseModel):
            n: int
        def order(lines: list[Line], extra: dict[str, int] = {}) -> None: ...
        """
    )
    validator = compile_schema(source.definitions()["order"].input_schema)
    assert validator.check({"lines": [{"n": 1}], "extra": {"free": 2}}) == []
    assert validator.check({"lines": [{"n": 1, "m": 2}]}) != []
    assert validator.check({"lines": [], "other": 1}) != []


async def test_a_recursive_model_has_an_object_schema_at_its_root(offer: Offer) -> None:
    source = offer(
        """
        class Node(BaseModel):
            name: str
            below: list[Node] = []
        def walk(node: Node) -> Node: return node
        """
    )
    tool = source.definitions()["walk"]
    assert tool.input_schema["type"] == "object"
    assert tool.output_schema is not None
    assert tool.output_schema["type"] == "object"
    value: dict[str, Any] = {"name": "a", "below": [{"name": "b", "below": []}]}
    assert (await run(source, "walk", **value)).value == value
    assert compile_schema(tool.output_schema).check(value) == []
    assert compile_schema(tool.input_schema).check({"name": "a", "below": [{"nam": "b"}]}) != []


async def test_values_come_back_as_json_values(offer: Offer) -> None:
    source = offer(
        """
        from datetime import date
        class Day(BaseModel):
            on: date
            tags: set[str]
        def today(on: date) -> Day: return Day(on=on, tags={"a"})
        """
    )
    assert (await run(source, "today", on="2026-11-22")).value == {"on": "2026-11-22", "tags": ["a"]}


async def test_every_load_problem_is_told_at_once_with_field_function_and_parameter(offer: Offer) -> None:
    told = problems_of(
        offer,
        """
        class Odd: pass
        def a(x) -> int: ...
        def b(x: int): ...
        def c(*rest: int) -> int: ...
        def d(x: int, /) -> int: ...
        def e(x: Odd, y: int) -> int: ...
        def f(x: int = Field(3)) -> int: ...
        def g(k: Annotated[int, EffectKey]) -> int: ...
        def h(x: Nowhere) -> int: ...
        def i() -> Odd: ...
        def j() -> int: yield 1
        """,
    )
    for expected in (
        "sources.mine.python: function `a` parameter `x` has no type",
        "function `b` has no return type",
        "function `c` parameter `rest`",
        "function `d` parameter `x` is positional-only",
        "function `e` parameter `x` has a type without a JSON Schema",
        "function `f` parameter `x` has a Field as its default",
        "function `g` parameter `k`",
        "function `h` has an annotation that cannot be resolved",
        "function `i` has a return type without a JSON Schema",
        "function `j` is a generator",
    ):
        assert expected in told
    assert "`y`" not in told


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("no_such_package.module", "importing `no_such_package.module` failed with ModuleNotFoundError"),
        ("./absent.py", "there is no file"),
        ("not a target!", "is no module or file"),
        ("json:nothing", "no `nothing`"),
        ("json:JSONDecoder", "is no function"),
    ],
)
async def test_a_target_that_cannot_be_loaded_says_why(target: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(SourceInvalid, match=told):
        FunctionSource("s", target, base_dir=tmp_path)


async def test_a_module_that_raises_or_exits_while_loading_is_refused(offer: Offer) -> None:
    assert "ZeroDivisionError" in problems_of(offer, "1 / 0")
    assert "SystemExit" in problems_of(offer, "raise SystemExit(3)")
    told = problems_of(offer, "x = 1")
    assert ".py has no public function" in told  # the file, and not the name it is loaded under
    assert "comptroller_source_" not in told


async def test_a_name_outside_ascii_is_refused(offer: Offer) -> None:
    assert "rename it" in problems_of(offer, "def süß(x: int) -> int: ...")
    assert "argument `größe`" in problems_of(offer, "def f(größe: int) -> int: ...")


async def test_the_digest_moves_with_every_part_of_the_definition(offer: Offer) -> None:
    def digest(body: str) -> str:
        return offer(body).definitions()["f"].digest

    first = digest('def f(x: int) -> int:\n    """A."""\n    return 1')
    assert digest('def f(x: int) -> int:\n    """A."""\n    return 2') == first
    others = {
        digest('def f(x: int) -> int:\n    """B."""'),
        digest('def f(x: str) -> int:\n    """A."""'),
        digest('def f(x: int) -> str:\n    """A."""'),
        digest('def f(x: int, k: Annotated[str, EffectKey]) -> int:\n    """A."""'),
    }
    assert len(others | {first}) == 5


async def test_other_code_is_another_identity(offer: Offer) -> None:
    one = offer("def f() -> int: return 1").identity
    assert one == offer("def f() -> int: return 1").identity
    assert one != offer("def f() -> int: return 2").identity


async def test_a_file_is_run_as_it_is_now_whatever_was_kept_of_it(offer: Offer, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    offer("def f() -> int: return 1")
    py_compile.compile(str(file), doraise=True)  # as an import of it would
    made = file.stat().st_mtime
    file.write_text(file.read_text().replace("return 1", "return 2"))
    os.utime(file, (made, made))
    source = FunctionSource("mine", "./mine.py", base_dir=tmp_path)
    assert (await run(source, "f")).value == {"result": 2}


async def test_not_done_is_the_only_exception_that_says_nothing_happened(offer: Offer) -> None:
    source = offer(
        """
        def refused() -> int: raise NotDone("The invoice is closed.")
        async def refused_too() -> int: raise NotDone("No.")
        def broken() -> int: raise RuntimeError("password=hunter2")
        async def broken_too() -> int: raise RuntimeError("password=hunter2")
        def leaving() -> int: raise SystemExit(1)
        async def leaving_too() -> int: raise SystemExit(1)
        def interrupted() -> int: raise KeyboardInterrupt
        async def gone() -> int: raise asyncio.CancelledError
        """
    )
    refused = await run(source, "refused")
    assert (refused.effect, refused.told_model) == (EffectHappened.NONE, "The invoice is closed.")
    assert (await run(source, "refused_too")).effect is EffectHappened.NONE
    for tool in ("broken", "broken_too", "leaving", "leaving_too", "interrupted", "gone"):
        outcome = await run(source, tool)
        assert outcome.effect is EffectHappened.UNKNOWN, tool
        assert outcome.told_model is None
        assert "hunter2" not in (outcome.error or "hunter2")


async def test_arguments_that_do_not_convert_never_enter_the_function(offer: Offer, tmp_path: Path) -> None:
    source = offer(
        f"""
        class Request(BaseModel):
            n: int
            @field_validator("n")
            @classmethod
            def odd(cls, n: int) -> int:
                if n == 13:
                    raise RuntimeError("secret 13")
                if n % 2 == 0:
                    raise ValueError("must be odd")
                return n
        def f(request: Request) -> None:
            open({str(tmp_path / "entered")!r}, "w").close()
        """
    )
    refused = await run(source, "f", n=4)
    assert refused.effect is EffectHappened.NONE
    assert refused.told_model == "`n`: Value error, must be odd"
    raised = await run(source, "f", n=13)
    assert (raised.effect, raised.error) == (
        EffectHappened.NONE,
        "a validator of the arguments raised RuntimeError",
    )
    assert (await run(source, "f", n="x")).effect is EffectHappened.NONE
    assert not (tmp_path / "entered").exists()
    assert (await run(source, "f", n=3)).effect is EffectHappened.DONE


async def test_a_value_that_lies_about_its_type_means_done_without_a_value(offer: Offer) -> None:
    source = offer(
        """
        class Receipt(BaseModel):
            amount: int
        def text() -> Receipt: return "refunded"
        async def text_too() -> Receipt: return "refunded"
        def built() -> Receipt: return Receipt.model_construct(amount="many")
        def coroutine() -> Any: return asyncio.sleep(0)
        def deep() -> Any:
            value = []
            for _ in range(100_000): value = [value]
            return value
        """
    )
    for tool in ("text", "text_too", "built", "coroutine", "deep"):
        outcome = await run(source, tool)
        assert (outcome.effect, outcome.value) == (EffectHappened.DONE, None), tool
        assert outcome.meta == {"output_invalid": True}
        assert outcome.error
        assert "refunded" not in outcome.error


async def test_what_was_never_entered_is_none(offer: Offer) -> None:
    source = offer("def f() -> int: return 1")
    assert (await run(source, "absent")).effect is EffectHappened.NONE
    late = await source.call(Action("f", {}, "k"), time.monotonic() - 1)
    assert (late.effect, late.value) == (EffectHappened.NONE, None)
    await source.close()
    closed = await run(source, "f")
    assert (closed.effect, closed.error) == (EffectHappened.NONE, "source `mine` is closed")


async def test_a_slow_async_function_is_cancelled_at_its_deadline_and_unknown(offer: Offer) -> None:
    source = offer("async def slow() -> int:\n    await asyncio.sleep(60)\n    return 1")
    with anyio.fail_after(30):
        outcome = await run(source, "slow", within_s=0.05)
    assert outcome.effect is EffectHappened.UNKNOWN
    assert outcome.meta == {"timeout": True}
    assert source.busy == 0


async def test_a_function_that_finishes_while_it_is_cancelled_is_believed(offer: Offer) -> None:
    source = offer(
        """
        async def tidy() -> int:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise NotDone("I stopped before writing.")
            return 1
        """
    )
    outcome = await run(source, "tidy", within_s=0.05)
    assert (outcome.effect, outcome.told_model) == (EffectHappened.NONE, "I stopped before writing.")


async def test_a_function_that_ignores_cancellation_keeps_its_slot_and_the_answer_does_not_wait(
    offer: Offer,
) -> None:
    source = offer(
        """
        over = asyncio.Event()
        async def stubborn() -> int:
            while not over.is_set():
                try:
                    await over.wait()
                except asyncio.CancelledError:
                    pass
            return 1
        async def release() -> int:
            over.set()
            return 1
        """,
        tasks_max=2,
    )
    with anyio.fail_after(30):
        outcome = await run(source, "stubborn", within_s=0.05)
        assert outcome.effect is EffectHappened.UNKNOWN
        assert source.busy == 1
        assert (await run(source, "release")).effect is EffectHappened.DONE
        await busy(source, 0)


async def test_a_hung_thread_keeps_its_slot_and_a_full_source_starts_nothing(
    offer: Offer, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    source = offer(
        f"""
        import os
        def hang() -> int:
            while not os.path.exists({str(gate)!r}):
                time.sleep(0.005)
            return 1
        def quick() -> int: return 2
        """,
        threads_max=1,
    )
    with anyio.fail_after(30):
        hung = await run(source, "hang", within_s=0.05)
        assert (hung.effect, hung.meta) == (EffectHappened.UNKNOWN, {"timeout": True})
        full = await run(source, "quick")
        assert (full.effect, full.meta) == (EffectHappened.NONE, {"overloaded": True})
        gate.touch()
        await busy(source, 0)
        assert (await run(source, "quick")).value == {"result": 2}


async def test_one_slot_serves_any_number_of_calls_in_a_row(offer: Offer) -> None:
    source = offer("def quick(n: int) -> int: return n", threads_max=1)
    for n in range(200):
        assert (await run(source, "quick", n=n)).value == {"result": n}


async def test_parallel_calls_keep_their_own_arguments_and_keys(offer: Offer) -> None:
    source = offer(
        """
        def sync(n: int, key: Annotated[str, EffectKey]) -> str: return f"{n} {key}"
        async def on_loop(n: int, key: Annotated[str, EffectKey]) -> str:
            await asyncio.sleep(0)
            return f"{n} {key}"
        """
    )
    end = time.monotonic() + 30

    async def one(tool: str, n: int) -> None:
        outcome = await source.call(Action(tool, {"n": n}, f"key-{n}"), end)
        assert outcome.value == {"result": f"{n} key-{n}"}

    await asyncio.gather(*(one(tool, n) for n in range(50) for tool in ("sync", "on_loop")))
    assert source.busy == 0


async def test_the_callers_cancellation_goes_through_and_stops_the_function(offer: Offer) -> None:
    source = offer("async def slow() -> int:\n    await asyncio.sleep(60)\n    return 1")
    with anyio.move_on_after(0.05) as scope:
        await run(source, "slow", within_s=60)
    assert scope.cancelled_caught
    with anyio.fail_after(30):
        await busy(source, 0)


async def test_close_cancels_what_runs_on_the_loop(offer: Offer) -> None:
    source = offer("async def slow() -> int:\n    await asyncio.sleep(60)\n    return 1")
    call = asyncio.create_task(run(source, "slow", within_s=60))
    await busy(source, 1)
    with anyio.fail_after(30):
        await source.close()
        assert (await call).effect is EffectHappened.UNKNOWN


async def test_worker_threads_are_daemons_so_that_a_hung_tool_cannot_hold_up_shutdown(offer: Offer) -> None:
    source = offer("def daemon() -> bool: return threading.current_thread().daemon")
    assert (await run(source, "daemon")).value == {"result": True}
    assert threading.active_count() > 1


async def test_progress_reaches_the_client_until_the_call_is_answered(offer: Offer) -> None:
    source = offer(
        """
        kept = []
        async def work(context: ToolContext) -> float:
            kept.append(context)
            await context.progress(1, 2, "half")
            return context.deadline
        async def late() -> int:
            await kept[0].progress(2, 2, "late")
            return 1
        def in_thread(context: ToolContext) -> int:
            context.report(3, None, "from a thread")
            return 1
        """
    )
    told: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total, message))

    deadline = time.monotonic() + 30
    outcome = await source.call(Action("work", {}, "k", progress), deadline)
    assert outcome.value == {"result": deadline}
    await run(source, "late")
    await source.call(Action("in_thread", {}, "k", progress), deadline)
    assert told == [(1, 2, "half"), (3, None, "from a thread")]


async def test_a_client_that_is_gone_does_not_fail_the_tool(offer: Offer) -> None:
    source = offer(
        """
        async def work(context: ToolContext) -> int:
            await context.progress(1)
            return 1
        def in_thread(context: ToolContext) -> int:
            context.report(1)
            return 1
        """
    )

    async def gone(done: float, total: float | None, message: str | None) -> None:
        raise ConnectionError

    for tool in ("work", "in_thread"):
        outcome = await source.call(Action(tool, {}, "k", gone), time.monotonic() + 30)
        assert outcome.value == {"result": 1}
