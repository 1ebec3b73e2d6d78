"""What can go wrong, as one tree.

CovidXrayError
├── ProblemReceived     the service said why it does not answer
├── UnusableAnswer      what answered is not the service, or one that this client does not know
└── Unreachable         no answer came
"""

from covid_xray.answers import Problem


class CovidXrayError(Exception):
    """Root of the tree."""


class ProblemReceived(CovidXrayError):
    """The service said why it does not answer.

    Args:
        problem: What it said.
        retry_after_s: Seconds after which it wants to be asked again, where it told.
        request_id: Names the request in the service's log, where it told.
    """

    def __init__(
        self, problem: Problem, retry_after_s: float | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(f"{problem.title}. {problem.detail}")
        self.problem = problem
        self.retry_after_s = retry_after_s
        self.request_id = request_id

    @property
    def type(self) -> str:
        """Stable name of the kind of problem."""
        return self.problem.type

    @property
    def code(self) -> str:
        """The end of the type, such as `not-a-chest-radiograph`."""
        return self.problem.code

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    @property
    def expected(self) -> str | None:
        """What would have been right."""
        return self.problem.expected

    @property
    def received(self) -> str | None:
        """What came instead."""
        return self.problem.received


class UnusableAnswer(CovidXrayError):
    """What answered is not the service, or one that this client does not know."""


class Unreachable(CovidXrayError):
    """No answer came: there is no connection, it broke off, or it took too long."""
