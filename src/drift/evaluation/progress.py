"""One progress bar over work of several kinds, with the time that is left of all of it."""

import time

from tqdm import tqdm

FORMAT = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}, {remaining} left"


class Progress:
    """Work is counted in units that take about equally long; `done` was done in an earlier process.

    The bar is for terminals; elsewhere only what is told with `say` is written, a line at a time.
    """

    def __init__(self, total: int, done: int = 0):
        self.total, self.done, self.before = total, done, done
        self.start = time.perf_counter()
        self.bar = tqdm(
            total=total,
            initial=done,
            disable=None,
            dynamic_ncols=True,
            smoothing=0,  # of all the time until now: what comes next may be of another kind
            bar_format=FORMAT,
            leave=False,
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def show(self, what: str) -> None:
        """What is being done now."""
        self.bar.set_description_str(what)

    def advance(self, work: int) -> None:
        self.done += work
        self.bar.update(work)

    def say(self, line: str) -> None:
        """A line that stays, on standard output, with the time left."""
        fresh, rest = self.done - self.before, self.total - self.done
        seconds = (time.perf_counter() - self.start) * rest / fresh if fresh else 0
        tqdm.write(line + (f"; {tqdm.format_interval(seconds)} left" if seconds else ""))
