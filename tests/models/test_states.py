import itertools
from pathlib import Path

import pytest

from models.errors import TransitionError
from models.states import EXECUTION_MOVES, TASK_MOVES, ExecutionState, TaskState, as_markdown, check_move, sources


def test_every_state_has_its_row_in_the_tables() -> None:
    assert set(EXECUTION_MOVES) == set(ExecutionState)
    assert set(TASK_MOVES) == set(TaskState)


def test_the_outcome_of_a_command_never_changes_but_for_lost() -> None:
    for state in (ExecutionState.SUCCEEDED, ExecutionState.FAILED, ExecutionState.TIMED_OUT):
        assert not EXECUTION_MOVES[state]
    assert ExecutionState.RUNNING not in EXECUTION_MOVES[ExecutionState.LOST]


def test_running_is_reached_from_queued_alone() -> None:
    assert sources(ExecutionState.RUNNING) == {ExecutionState.QUEUED}


def test_nothing_that_has_started_goes_back_to_a_state_that_says_it_has_not() -> None:
    unstarted = {ExecutionState.PENDING, ExecutionState.QUEUED, ExecutionState.UNREACHABLE}
    assert not EXECUTION_MOVES[ExecutionState.LOST] & unstarted
    assert EXECUTION_MOVES[ExecutionState.RUNNING] & unstarted == {ExecutionState.QUEUED}, "which only a new attempt is"


def test_a_forbidden_move_is_refused_and_an_allowed_one_is_not() -> None:
    for old, new in itertools.product(ExecutionState, ExecutionState):
        if new in EXECUTION_MOVES[old]:
            check_move(old, new)
        else:
            with pytest.raises(TransitionError) as caught:
                check_move(old, new)
            assert (caught.value.old, caught.value.new) == (old, new)


def test_the_docs_show_the_tables() -> None:
    assert as_markdown() in (Path(__file__).parents[2] / "docs" / "states.md").read_text()
