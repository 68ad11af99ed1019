#!/usr/bin/env python3
"""Writes how many numbers there are, the least and the most of them."""

import numpy

import dflow


@dflow.function
def summary(values: dflow.Input, figures: dflow.Output):
    count, least, most = 0, float("inf"), float("-inf")
    for numbers in values.arrays("<f8"):
        count += len(numbers)
        least = min(least, float(numpy.min(numbers)))
        most = max(most, float(numpy.max(numbers)))
    figures.write(f"count {count}\nleast {least:.3f}\nmost {most:.3f}\n".encode())


if __name__ == "__main__":
    dflow.serve(summary)
