"""The table of states, and that docs/keystore.md shows the same."""

import itertools
from pathlib import Path

import pytest

from kmsfs.errors import KeyDisabledError, KeyPendingDeletionError, KeystoreError
from kmsfs.keystore.model import KeyState
from kmsfs.keystore.transitions import TRANSITIONS, Operation, next_state

PAGE = Path(__file__).parents[3] / "docs" / "keystore.md"
MOVES = (
    Operation.ENABLE,
    Operation.DISABLE,
    Operation.SCHEDULE_DELETION,
    Operation.CANCEL_DELETION,
    Operation.IMPORT_MATERIAL,
    Operation.DELETE_MATERIAL,
)
CELLS = list(itertools.product(KeyState, Operation))


def test_the_table_is_total() -> None:
    assert set(TRANSITIONS) == set(CELLS)


@pytest.mark.parametrize(("state", "operation"), CELLS)
def test_every_cell_allows_or_refuses_by_name(state: KeyState, operation: Operation) -> None:
    outcome = TRANSITIONS[state, operation]
    if isinstance(outcome, KeyState):
        assert next_state(state, operation, "arn") is outcome
        return
    with pytest.raises(outcome, match="key arn is ") as caught:
        next_state(state, operation, "arn")
    assert isinstance(caught.value, KeystoreError)
    assert caught.value.hint.endswith(" arn") == (outcome in (KeyDisabledError, KeyPendingDeletionError))


def test_the_page_shows_the_table() -> None:
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    names = {
        "encrypt, decrypt, generate a data key, generate and verify a MAC": (
            Operation.ENCRYPT,
            Operation.DECRYPT,
            Operation.GENERATE_DATA_KEY,
            Operation.GENERATE_MAC,
            Operation.VERIFY_MAC,
        ),
        "create a grant": (Operation.CREATE_GRANT,),
        "get parameters for an import": (Operation.GET_IMPORT_PARAMETERS,),
        "import material": (Operation.IMPORT_MATERIAL,),
        "delete imported material": (Operation.DELETE_MATERIAL,),
        "enable": (Operation.ENABLE,),
        "disable": (Operation.DISABLE,),
        "point an alias at it": (Operation.POINT_ALIAS,),
        "tag, untag, change the description": (Operation.TAG, Operation.DESCRIBE_ANEW),
        "rotate, turn rotation on or off, retire old material": (
            Operation.ROTATE,
            Operation.SET_ROTATION,
            Operation.RETIRE_MATERIAL,
        ),
        "replicate, make another region the primary's": (Operation.REPLICATE, Operation.MOVE_PRIMARY),
        "schedule the deletion": (Operation.SCHEDULE_DELETION,),
        "cancel the deletion": (Operation.CANCEL_DELETION,),
    }
    shown = {
        (state, operation): cell.strip("`")
        for row in rows
        if row[0] in names
        for operation in names[row[0]]
        for state, cell in zip(KeyState, row[1:], strict=True)
    }
    assert set(shown) == set(CELLS)
    for (state, operation), cell in shown.items():
        outcome = TRANSITIONS[state, operation]
        if isinstance(outcome, KeyState):
            assert cell == (outcome.value if operation in MOVES else "yes")
        else:
            assert cell == outcome.__name__
