"""What stands between two steps: an evaluation that is made up for."""

from types import SimpleNamespace

from segkd.runner.training.between_steps import score_late


def test_an_evaluation_that_is_made_up_for_is_no_training():
    done = []

    def note(name, result=None):
        return lambda *given: done.append(name) or result

    values = SimpleNamespace(values={"miou": 0.5})
    training = SimpleNamespace(
        report=SimpleNamespace(score=note("score", (values, {})), add_evaluation=note("tell")),
        tracking=SimpleNamespace(add_scores=note("write"), restart_clock=note("restart the clock")),
        state=SimpleNamespace(unscored=True), check_claim=note("check"), save=note("save"),
    )  # fmt: skip
    score_late(training, [training], None, None)
    assert done == ["score", "check", "write", "tell", "save", "restart the clock"] and not training.state.unscored
