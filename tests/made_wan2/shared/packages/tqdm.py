"""In tqdm's place where it is not installed: an iterable with a bar on stderr."""

import sys


class tqdm:
    def __init__(self, iterable=None, **kwargs):
        self.iterable, self.n = iterable, 0

    def __len__(self):
        return len(self.iterable)

    def __iter__(self):
        for item in self.iterable:
            yield item
            self.update()
        sys.stderr.write("\n")

    def update(self, n=1):
        self.n += n
        sys.stderr.write(f"\r{self.n}")
