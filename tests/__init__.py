"""The tests, a package of its own: libraries leave a `tests` beside their code."""
