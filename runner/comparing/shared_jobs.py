"""Which job of a sweep is next, where any number of processes on machines that see one disk work on it."""

from dataclasses import dataclass
from pathlib import Path

from segkd.runner.comparing.sweep_plan import Job
from segkd.runner.run_folder.claim import Claim, Holder, Observer, look
from segkd.runner.run_folder.folder import RunFolder


@dataclass(frozen=True, eq=False)
class TakenJob:
    """A job that this process has claimed, less the runs of it that are done. number: its place in the sweep."""

    job: Job
    number: int
    claims: dict[Path, Claim]


class SharedJobs:
    """The jobs of a sweep in their order. Each is taken once: by who has the claims of its run folders.

    Attributes:
        count: how many there are. left: those that are not known to be done or failed.
        failed: run folder -> why its training failed, here or elsewhere since this process began; what had failed
            before is tried again.
    """

    def __init__(self, jobs: list[Job]):
        self.left, self.count = dict(enumerate(jobs, start=1)), len(jobs)
        self.failed: dict[Path, str] = {}
        self._observer = Observer()
        holders = [look(claims_of(folder)) for job in jobs for folder in job.folders]
        self._before = {holder.token for holder in holders if holder is not None and holder.failed is not None}

    def take(self) -> TakenJob | None:
        """The next job whose teachers are there and that nobody else has; None where there is none now."""
        for number, job in list(self.left.items()):
            self._note_failures(job)
            runs = [run for run in job.runs if run.recipe.folder not in self.failed and not is_over(run.recipe.folder)]
            if not runs:
                del self.left[number]
            elif all(RunFolder(folder).is_finished for folder in job.needs):
                claims = self._claim([run.recipe.folder for run in runs])
                # since it was looked at, another may have come to its end
                done = [folder for folder in claims if RunFolder(folder).is_finished]
                for folder in done:
                    claims.pop(folder).release(finished=True)
                if done and not claims:
                    del self.left[number]
                elif claims:
                    return TakenJob(Job([run for run in runs if run.recipe.folder in claims]), number, claims)
        return None

    def fail(self, folder: Path, claim: Claim, reason: str) -> Holder | None:
        """Tells everybody that a run has failed; where another process trains it by now, nothing but who."""
        claim.release(failed=reason)
        holder = look(claims_of(folder))
        if holder is not None and holder.token != claim.token:
            taken = self._observer.try_to_claim(claims_of(folder))
            if not isinstance(taken, Claim):
                return taken
            taken.release(failed=reason)
        self.failed[folder] = reason
        return None

    def elsewhere(self) -> dict[str, Holder]:
        """The runs that are left and claimed, by their names."""
        runs = [run for job in self.left.values() for run in job.runs if not is_over(run.recipe.folder)]
        holders = {run.recipe.name: look(claims_of(run.recipe.folder)) for run in runs}
        return {name: holder for name, holder in holders.items() if holder is not None and not holder.released}

    def _claim(self, folders: list[Path]) -> dict[Path, Claim]:
        """The claims of all these folders, or none of them."""
        claims: dict[Path, Claim] = {}
        for folder in folders:
            taken = self._observer.try_to_claim(claims_of(folder))
            if isinstance(taken, Holder):
                for claim in claims.values():
                    claim.release()
                return {}
            claims[folder] = taken
        return claims

    def _note_failures(self, job: Job) -> None:
        """What has failed elsewhere since this process began."""
        for folder in job.folders:
            holder = look(claims_of(folder))
            if holder is not None and holder.failed is not None and holder.token not in self._before:
                self.failed.setdefault(folder, f"failed on {holder.host}: {holder.failed}")


def claims_of(folder: Path) -> Path:
    """Where the claims of a run lie."""
    return RunFolder(folder).claims


def is_over(folder: Path) -> bool:
    """Whether a run came to its end, and its training too, or what a kill has left of that."""
    return RunFolder(folder).is_finished and not claims_of(folder).exists()
