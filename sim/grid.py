"""The in-process Grid: virtual sites answer one after the other in this process.

No start-up, no copies of the backbone, deterministic order, and a debugger that works.
"""

from collections.abc import Iterable, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity  # Message() asks it who the sender is

COORDINATOR = 1


class InProcessGrid(Grid):
    """Delivers messages to `app` under the node of each site; node ids start at 2."""

    def __init__(self, app: ClientApp, sites: Sequence[str]) -> None:
        self.app = app
        self.contexts = {
            number: Context(
                run_id=1, node_id=number, node_config={"site": site}, state=RecordDict(),
                run_config={},
            )
            for number, site in enumerate(sites, start=2)
        }  # fmt: skip
        self.waiting: dict[str, Message] = {}
        self.count = 0
        TaskIdentity.run_id = TaskIdentity.task_id = 1
        TaskIdentity.node_id = COORDINATOR

    def set_run(self, run: Run) -> None:
        """A simulation has one run."""

    @property
    def run(self) -> Run:
        """A simulation has no run of Flower's."""
        raise RuntimeError("the in-process grid has no Flower run")

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str,
        ttl: float | None = None,
    ) -> Message:  # fmt: skip
        """Deprecated in Flower; `Message(...)` does the same."""
        return Message(content, dst_node_id=dst_node_id, message_type=message_type,
                       group_id=group_id)  # fmt: skip

    def get_node_ids(self) -> list[int]:
        """All virtual sites; they are always there."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Accept messages; they are answered when their answers are pulled."""
        names = []
        for message in messages:
            self.count += 1
            name = f"message-{self.count}"
            message.metadata.__dict__["_message_id"] = name  # there is no public setter
            self.waiting[name] = message
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Let the next of the asked sites answer: one answer a call, so that they stream."""
        for name in message_ids:
            if name in self.waiting:
                return [self._deliver(self.waiting.pop(name))]
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Answers of all messages."""
        names = self.push_messages(messages)
        return [reply for name in names for reply in self.pull_messages([name])]

    def _deliver(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        context = self.contexts[node]
        TaskIdentity.node_id = node
        try:
            reply = self.app(message, context)
        except Exception as error:  # what Flower's runtime does with an app that fails
            reason = type(error).__name__
            reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
        finally:
            TaskIdentity.node_id = COORDINATOR
        return reply
