"""Memory that runs out in a step or an evaluation: a sentence on what to change, and no traceback."""

import pytest

# a forward that asks for more memory than there is, from its second call on
GREEDY = """
import torch
from segkd.runner import distill
from segkd.runner.command import run_command
from segkd.runner.{module} import {owner}

calls, forward = [], {owner}.{method}

def greedy(*given, **settings):
    calls.append(1)
    return torch.empty(2**50) if len(calls) > 1 else forward(*given, **settings)

{owner}.{method} = greedy
run_command(distill.main)
"""


@pytest.mark.parametrize("place, what, advice", [
    (("building.graph", "Graph", "forward"), "a step of 4 images", "loop.accumulate=2 "),
    (("scoring.evaluation", "Confusion", "count"), "an evaluation", "evaluate.batch_size=2 "),
])  # fmt: skip
def test_memory_that_runs_out_is_told_with_what_to_change(server, folder, assert_refused, place, what, advice):
    (folder / "greedy.py").write_text(GREEDY.format(module=place[0], owner=place[1], method=place[2]))
    result = server(folder, "greedy.py", "tiny.yaml")
    assert_refused(result, f"tiny: there is not enough memory for {what}", "can't allocate memory", f"  {advice}")
