"""One kept connection to an upstream: negotiated in either era, listed, watched, and ended, in a task of its own.

The SDK's scopes and task groups live and die in that task; callers only send through the session, which is theirs to
use from any task. Whatever an upstream does ends here at worst: the connection, never the server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol, cast

import mcp_types as types
import structlog
from mcp.client.session import ClientSession, IncomingMessage
from mcp.client.subscriptions import listen
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter, ValidationError

from comptroller_tools.source import Action
from comptroller_tools.upstream.asked import asked_by_server
from comptroller_tools.upstream.asking import Asking
from comptroller_tools.upstream.children import CannotStart, HeadStarts
from comptroller_tools.upstream.cleaning import shown
from comptroller_tools.upstream.definitions import TOOLS_MAX, Kind, Written, read_listing
from comptroller_tools.upstream.dispatcher import Dispatcher, FirstCall
from comptroller_tools.upstream.over_http import http_streams
from comptroller_tools.upstream.over_stdio import Ended, stdio_streams
from comptroller_tools.upstream.refusals import Refusals
from comptroller_tools.upstream.settings import StdioCommand, UpstreamSettings
from comptroller_tools.upstream.speaking import During, Speaking
from comptroller_tools.upstream.tokens import Tokens
from comptroller_tools.upstream.watching import Watching

__all__ = ["NOTHING_GIVEN", "Given", "Link", "Listing", "Unreachable"]

PAGES_MAX = 50
RELIST_PAUSE_S = 1.0
"""Between two listings that the upstream asks for."""
CLOSE_S = 10.0
RELIST_EVERY_S = 60.0
"""A definition can change without a word; this is how long that can go unseen."""
CLIENT = types.Implementation(name="comptroller", version="1")

_RESULT: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)
_CONTENTS: TypeAdapter[types.ReadResourceResult | types.InputRequiredResult] = TypeAdapter(
    types.ReadResourceResult | types.InputRequiredResult
)
_MESSAGES: TypeAdapter[types.GetPromptResult | types.InputRequiredResult] = TypeAdapter(
    types.GetPromptResult | types.InputRequiredResult
)
_log = structlog.stdlib.get_logger()


_CHANGES = (
    types.ToolListChangedNotification,
    types.ResourceListChangedNotification,
    types.PromptListChangedNotification,
)


class Given:
    """What a later round of a call brings: answers to the questions of the one before, and the upstream's own state."""

    def __init__(
        self, responses: dict[str, types.InputResponse] | None = None, state: str | None = None
    ) -> None:
        self.responses = responses
        self.state = state


NOTHING_GIVEN = Given()


class _Ask(Protocol):
    def __call__(self, *, params: types.PaginatedRequestParams | None) -> Awaitable[object]: ...


class Unreachable(Exception):
    """There is no connection and nothing was sent. The text is for operators; `said` is the upstream's own."""

    def __init__(self, text: str, said: str = "") -> None:
        super().__init__(text)
        self.said = said


class Listing:
    """What the upstream lists now, of every kind, and a sentence for each entry that cannot be used."""

    def __init__(self, tools: Mapping[str, Written], wrong: list[str]) -> None:
        self.tools = dict(tools)
        self.wrong = list(wrong)


class Link:
    """A connection from `open` to `close`. `kinds` are listed beside tools; `changed` is called with each listing."""

    def __init__(
        self,
        name: str,
        settings: UpstreamSettings,
        kinds: Collection[Kind],
        changed: Callable[[Listing], None],
        watching: Watching,
        idle: Callable[[str, str, Any], None],
        tokens: Tokens | None = None,
        head_starts: HeadStarts | None = None,
    ) -> None:
        self._name = name
        self._head_starts = head_starts
        self._tokens = tokens
        self._kinds = kinds
        self._settings = settings
        self._changed = changed
        self._watching = watching
        self._speaking = Speaking(idle)
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._relist = asyncio.Event()
        self._close = asyncio.Event()
        self._ended = Ended()
        self._refusals = Refusals()
        self._session: ClientSession | None = None
        self._dispatcher: Dispatcher | None = None
        self._task = asyncio.get_running_loop().create_task(self._drive(), name=f"upstream-{name}")

    @property
    def alive(self) -> bool:
        """Whether requests can be sent."""
        return (
            not self._task.done()
            and not self._close.is_set()
            and self._dispatcher is not None
            and not self._dispatcher.ended.is_set()
            and self._ended.why is None
            and not self._refusals.session_lost
        )

    @property
    def settled(self) -> bool:
        """Whether it is known if it works: it was ready once, or it never will be."""
        return self._ready.done()

    @property
    def why_ended(self) -> str:
        return self._ended.why or "the connection ended"

    async def ready(self) -> None:
        """Wait until it is negotiated and listed. Raises `Unreachable`. May be waited for by many."""
        await asyncio.shield(self._ready)

    async def ended(self) -> None:
        """Wait until the connection is no more."""
        await asyncio.wait([self._task])

    async def close(self) -> None:
        """End it in order: the session, then the child or the connections. Bounded by the transport's graces."""
        self._close.set()
        done, _ = await asyncio.wait([self._task], timeout=CLOSE_S)
        if not done:  # a server that does not even answer a good-bye
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_S)
        if not self._ready.cancelled() and self._ready.done():
            self._ready.exception()  # looked at, whoever waited for it

    def not_taken(self, error: MCPError) -> bool:
        """Whether the request certainly never reached the upstream, or was turned away before it was read."""
        return self._refusals.not_taken(error.error.data)

    async def listen(self, log_level: str | None) -> None:
        """Ask the upstream for messages of `log_level`, if somebody wants any."""
        assert self._session is not None
        await self._speaking.ask(self._session, log_level)

    def during(self, action: Action, asking: Asking | None = None) -> During:
        """What is asked inside is asked for `action`, and what the upstream says of it goes there."""
        return self._speaking.during(action, asking)

    async def call(
        self, tool: str, arguments: Mapping[str, Any], progress: ProgressFnT, given: Given = NOTHING_GIVEN
    ) -> types.CallToolResult | types.InputRequiredResult:
        """One `tools/call`, or a later round of one. Raises MCPError, ValidationError."""
        assert self._session is not None
        request: Any = FirstCall(tool, arguments)
        if given is not NOTHING_GIVEN:
            params = types.CallToolRequestParams(
                name=tool,
                arguments=dict(arguments),
                input_responses=given.responses,
                request_state=given.state,
            )
            request = types.CallToolRequest(params=params)
        return await self._session.send_request(request, _RESULT, progress_callback=progress)

    async def read(
        self, address: str, progress: ProgressFnT, given: Given = NOTHING_GIVEN
    ) -> types.ReadResourceResult | types.InputRequiredResult:
        """One `resources/read`, or a later round of one. Raises MCPError, ValidationError."""
        assert self._session is not None
        params = types.ReadResourceRequestParams(
            uri=address, input_responses=given.responses, request_state=given.state
        )
        request = types.ReadResourceRequest(params=params)
        return await self._session.send_request(request, _CONTENTS, progress_callback=progress)

    async def prompt(
        self, name: str, arguments: Mapping[str, str], progress: ProgressFnT, given: Given = NOTHING_GIVEN
    ) -> types.GetPromptResult | types.InputRequiredResult:
        """One `prompts/get`, or a later round of one. Raises MCPError, ValidationError."""
        assert self._session is not None
        params = types.GetPromptRequestParams(
            name=name,
            arguments=dict(arguments),
            input_responses=given.responses,
            request_state=given.state,
        )
        request = types.GetPromptRequest(params=params)
        return await self._session.send_request(request, _MESSAGES, progress_callback=progress)

    async def complete(
        self,
        ref: types.PromptReference | types.ResourceTemplateReference,
        argument: types.CompletionArgument,
        context: Mapping[str, str],
    ) -> types.CompleteResult:
        """One `completion/complete`. Raises MCPError, ValidationError."""
        assert self._session is not None
        given = types.CompletionContext(arguments=dict(context)) if context else None
        params = types.CompleteRequestParams(ref=ref, argument=argument, context=given)
        return await self._session.send_request(types.CompleteRequest(params=params), types.CompleteResult)

    # -- the task -------------------------------------------------------------------------------------------------

    async def _drive(self) -> None:
        try:
            async with self._connected() as session:
                self._session = session
                if not self._ready.done():
                    self._ready.set_result(None)
                await self._stay(session)
        except asyncio.CancelledError:
            self._fail(Unreachable(f"the connection to `{self._name}` was given up"))
            raise
        except BaseException as error:  # noqa: BLE001 -- exception groups of the SDK too: nothing of it gets further
            _log.info("an upstream connection failed", source=self._name, error=type(error).__name__)
            self._fail(self._unreachable(error))
        finally:
            self._fail(Unreachable(f"`{self._name}`: {self.why_ended}"))

    def _fail(self, why: Unreachable) -> None:
        if not self._ready.done():
            self._ready.set_exception(why)
            self._ready.exception()  # nobody may be waiting

    def _unreachable(self, error: BaseException) -> Unreachable:
        first = _first(error)
        said = "\n".join(self._ended.said)
        if isinstance(first, Unreachable):
            return first
        if isinstance(first, CannotStart):
            return Unreachable(f"`{self._name}`: {first}", said)
        if isinstance(first, MCPError):
            return Unreachable(f"`{self._name}` refused to talk: {shown(first.error.message)}", said)
        if isinstance(first, TimeoutError):
            return Unreachable(f"`{self._name}` was not ready within {self._settings.start_s:g} s", said)
        return Unreachable(f"`{self._name}`: {self.why_ended} ({type(first).__name__})", said)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncGenerator[ClientSession]:
        settings = self._settings
        most = settings.message_bytes_max
        streams = (
            stdio_streams(self._name, settings.transport, most, self._ended, self._head_starts)
            if isinstance(settings.transport, StdioCommand)
            else http_streams(settings.transport, most, self._refusals, self._tokens)
        )
        async with streams as (read, write, *posts):
            if settings.may_ask.kinds:
                posts = []  # questions belong to the session
            self._dispatcher = Dispatcher(read, write, self._speaking, *posts)
            async with ClientSession(
                dispatcher=self._dispatcher,
                client_info=CLIENT,
                message_handler=self._on_message,
                **asked_by_server(settings.may_ask, self._speaking),
            ) as session:
                starting = asyncio.create_task(self._negotiate(session), name=f"upstream-{self._name}-start")
                closing = asyncio.create_task(self._close.wait())
                ended = asyncio.create_task(self._dispatcher.ended.wait())
                try:
                    await asyncio.wait(
                        [starting, closing, ended],
                        timeout=settings.start_s,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if not starting.done():
                        if ended.done():
                            raise Unreachable(
                                f"`{self._name}`: {self.why_ended}", "\n".join(self._ended.said)
                            )
                        raise TimeoutError
                    starting.result()
                finally:
                    await _cancelled(starting, closing, ended)
                yield session

    async def _negotiate(self, session: ClientSession) -> None:
        """The newest era both sides speak, then the first listing. Raises MCPError and what the SDK raises."""
        try:
            if self._settings.handshake:
                await session.initialize()
            else:
                await session.discover()
        except (MCPError, RuntimeError, ValidationError):
            if self._settings.handshake:
                raise
            try:
                await session.initialize()
            except MCPError as error:
                # A slow modern server may have answered the first question after we stopped waiting for it.
                if error.code != types.UNSUPPORTED_PROTOCOL_VERSION:
                    raise
                await session.discover()
        await self._list(session)

    async def _list(self, session: ClientSession) -> None:
        found: dict[str, Written] = {}
        wrong: list[str] = []
        has = session.server_capabilities
        more = [
            (Kind.RESOURCE, session.list_resources, has is not None and has.resources is not None),
            (Kind.TEMPLATE, session.list_resource_templates, has is not None and has.resources is not None),
            (Kind.PROMPT, session.list_prompts, has is not None and has.prompts is not None),
        ]
        if has is None or has.tools is not None or not any(offers for _, _, offers in more):
            found, wrong = await self._pages(Kind.TOOL, session.list_tools)
        for kind, ask, offers in more:
            if not offers or kind not in self._kinds:
                continue
            try:
                listed, unread = await self._pages(kind, ask)
            except MCPError as error:  # the rest of it may be used all the same
                if error.code != types.METHOD_NOT_FOUND:
                    wrong.append(f"its {kind}s cannot be listed: {shown(error.error.message)}")
                continue
            found |= listed
            wrong += unread
        self._changed(Listing(found, wrong))

    async def _pages(self, kind: Kind, ask: _Ask) -> tuple[dict[str, Written], list[str]]:
        assert self._dispatcher is not None
        found: list[Any] = []
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            params = types.PaginatedRequestParams(cursor=cursor) if cursor is not None else None
            # It is kept as it came before the SDK reads it, and only that counts.
            with contextlib.suppress(ValidationError):
                await ask(params=params)
            found += self._dispatcher.page
            cursor = self._dispatcher.cursor
            if cursor is None or len(found) > TOOLS_MAX:
                break
        return read_listing(found, kind)

    async def _stay(self, session: ClientSession) -> None:
        """Until it ends or is closed: list again when asked, and now and then unasked."""
        assert self._dispatcher is not None
        ended = asyncio.create_task(self._dispatcher.ended.wait())
        closing = asyncio.create_task(self._close.wait())
        listening = asyncio.create_task(self._listen(session))
        watching = asyncio.create_task(self._watching.keep(session))
        try:
            while not (ended.done() or closing.done()):
                asked = asyncio.create_task(self._relist.wait())
                try:
                    await asyncio.wait(
                        [ended, closing, asked],
                        timeout=RELIST_EVERY_S,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    await _cancelled(asked)
                if ended.done() or closing.done():
                    break
                self._relist.clear()
                try:
                    async with asyncio.timeout(self._settings.start_s):
                        await self._list(session)
                except (MCPError, TimeoutError) as error:
                    # Its definitions are not known any more, so the connection is worth nothing.
                    self._ended.because(f"it did not list its tools ({type(error).__name__})")
                    break
                await asyncio.wait(
                    [ended, closing], timeout=RELIST_PAUSE_S, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            self._dispatcher.ended.set()
            await _cancelled(ended, closing, listening, watching)

    async def _listen(self, session: ClientSession) -> None:
        """On a modern connection changes are told on a stream of their own. Without it the clock has to do."""
        if session.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            return
        has = session.server_capabilities
        if has is None:
            return
        tools, resources, prompts = (
            one is not None and bool(one.list_changed) for one in (has.tools, has.resources, has.prompts)
        )
        if not (tools or resources or prompts):
            return
        with contextlib.suppress(Exception):
            async with listen(
                session,
                tools_list_changed=tools,
                resources_list_changed=resources,
                prompts_list_changed=prompts,
            ) as events:
                async for _ in events:
                    self._relist.set()

    async def _on_message(self, message: IncomingMessage) -> None:
        if isinstance(message, _CHANGES):
            self._relist.set()
        elif isinstance(message, types.ResourceUpdatedNotification) and not self._is_modern:
            self._watching.heard(message.params.uri)
        elif isinstance(message, types.LoggingMessageNotification):
            await self._speaking.heard(message.params.level, message.params.data)

    @property
    def _is_modern(self) -> bool:
        return self._session is not None and self._session.protocol_version in MODERN_PROTOCOL_VERSIONS


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _first(error: BaseException) -> BaseException:
    found = error
    while isinstance(found, BaseExceptionGroup):
        found = cast("BaseExceptionGroup[BaseException]", found).exceptions[0]
    return found
