"""What stands between two steps of the loop: evaluations, the log, checkpoints, and the end of who is asked to stop."""

import time
from typing import NoReturn

from accelerate import Accelerator

from segkd.runner.building.device import share_running_statistics
from segkd.runner.scoring.evaluation import Stopped, scores_of
from segkd.runner.training.estimate import telling_of_memory
from segkd.runner.training.stop_signal import AT_ONCE, StopSignal
from segkd.runner.training.training import Training, failing_alone, going


def score_and_save(training: Training, accelerator: Accelerator, stop: StopSignal, stopping: bool) -> None:
    """What follows a step, where its iteration says so: the evaluation, the log, the checkpoint."""
    recipe, graph, state, tracking = training.recipe, training.graph, training.state, training.tracking
    done, result, scores = state.iteration, None, None
    evaluates, saves = recipe.evaluates_at(done), recipe.saves_at(done)
    # what is scored and saved must not depend on which process's images the batch norms have followed
    if evaluates or saves or stopping:
        share_running_statistics([graph, *state.averages.values()], accelerator)
    if evaluates and not stopping:
        since = time.perf_counter()
        with telling_of_memory(recipe, graph, accelerator, scoring=True):
            result, others = training.report.score(stop)
        scores = result and scores_of(result, others)
        graph.stopwatch.marks.append(("scoring", since, time.perf_counter()))
    state.unscored = evaluates and result is None
    if stop.gave_up and accelerator.num_processes > 1:  # the others may be anywhere
        return
    # before the save: a checkpoint never knows more than the log, and a loss that is not finite ends here
    if recipe.writes_at(done) or saves or stopping:
        training.check_claim()
        tracking.flush(training.norm, scores)
    if result is not None:
        training.report.add_evaluation(result, others)
    if saves or stopping:
        training.save(accelerator, result)
    if saves:
        accelerator.wait_for_everyone()
        tracking.restart_clock()  # scoring and saving are no part of the speed


def score_late(training: Training, trainings: list[Training], accelerator: Accelerator, stop: StopSignal) -> None:
    """The evaluation of the last iteration, which a signal had kept from it."""
    result, others = training.report.score(stop)
    if result is None:
        leave(trainings, accelerator, stop)
    training.state.unscored = False
    training.check_claim()
    training.tracking.add_scores(scores_of(result, others))
    training.report.add_evaluation(result, others)
    training.save(accelerator, result)
    training.tracking.restart_clock()


def deliver(trainings: list[Training], accelerator: Accelerator, stop: StopSignal) -> None:
    """What each training leaves behind at its end: its student, its report, its closing table."""
    try:
        with stop.waiting(AT_ONCE):
            for training in going(trainings):
                with failing_alone(training, trainings):
                    training.check_claim()
                    training.report.deliver(training.check_claim)
                    training.close()
            accelerator.wait_for_everyone()
    except Stopped:
        leave(trainings, accelerator, stop, delivering=True)


def leave(
    trainings: list[Training], accelerator: Accelerator, stop: StopSignal, *, delivering: bool = False
) -> NoReturn:
    """Ends trainings that were asked to stop, between two steps: what is not saved yet is saved first."""
    done = max(training.state.iteration for training in trainings)
    # who gave up waiting, or is done, does not know where the others are
    is_over = all(training.is_over and not training.state.unscored for training in trainings)
    together = not (stop.gave_up or delivering or is_over)
    for training in going(trainings):
        with failing_alone(training, trainings):
            if training.saved < training.state.iteration and (together or accelerator.num_processes == 1):
                share_running_statistics([training.graph, *training.state.averages.values()], accelerator)
                training.check_claim()
                training.tracking.flush()
                training.save(accelerator)
            training.close()
    is_saved = all(training.saved == training.state.iteration for training in going(trainings))
    words = f"after iteration {done} and {'saved' if is_saved else 'not saved since the last checkpoint'}"
    names = ", ".join(training.recipe.name for training in trainings)
    stop.leave(f"{names}: stopped {words if done else 'before its first step'}; go on with --resume", together=together)
