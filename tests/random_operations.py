"""Random sequences of operations on servers; each starts in its own empty directory."""

from typing import Any

from hypothesis import HealthCheck, settings

from flask_storage.testing import StorageMachine
from tests.counts import count

SETTINGS = settings(
    max_examples=count(8, 40),
    stateful_step_count=count(25, 40),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def run_random_operations(make):
    """Run the state machine; *make* returns an empty storage, which is closed after each sequence."""

    class Machine(StorageMachine):
        def make_storage(self):
            return make()

        def teardown(self):
            super().teardown()
            if hasattr(self, "storage"):
                self.storage.close()

    case: Any = Machine.TestCase("runTest")
    case.settings = SETTINGS
    case.runTest()
