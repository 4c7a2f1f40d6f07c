"""Exponential integrators and schedules that people add to their hosts, from their formulas.

A step from sigma_s to sigma_t is h = log(sigma_s / sigma_t) long, and

    x_t = exp(-h) x_s + integral from 0 to h of exp(tau - h) D(tau) dtau

for the denoised output D; each method takes another polynomial for D. Hochbruck and Ostermann 2010
(https://doi.org/10.1017/S0962492910000048), with D for their non-linear part as in the "refined
exponential solver" (https://arxiv.org/abs/2308.02157).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def res_2s(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, disable: bool = True
) -> Tensor:
    """Runge-Kutta of order 2, its second evaluation halfway; the step to 0 is one evaluation."""
    args, ones = extra_args or {}, x.new_ones(len(x))
    for s, t in zip(sigmas.tolist(), sigmas[1:].tolist(), strict=False):
        first = model(x, s * ones, **args)
        if t == 0:
            return first
        h = math.log(s / t)
        middle = math.sqrt(s * t)
        half = math.exp(-h / 2)
        second = model(half * x + (1 - half) * first, middle * ones, **args)
        m0, m1 = moments(h)[:2]
        slope = (second - first) / (h / 2)
        x = math.exp(-h) * x + m0 * first + m1 * slope
    return x


def res_3m(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, disable: bool = True
) -> Tensor:
    """Multistep of order 3: Newton's polynomial through the last three outputs."""
    args, ones = extra_args or {}, x.new_ones(len(x))
    past: list[tuple[float, Tensor]] = []  # (-log sigma, output), newest first
    for s, t in zip(sigmas.tolist(), sigmas[1:].tolist(), strict=False):
        denoised = model(x, s * ones, **args)
        if t == 0:
            return denoised
        past = [(-math.log(s), denoised), *past][:3]
        h = math.log(s / t)
        m0, m1, m2 = moments(h)
        change = m0 * denoised
        if len(past) > 1:
            (a, newest), (b, older) = past[:2]
            slope = (newest - older) / (a - b)
            change = change + m1 * slope
            if len(past) > 2:
                c, oldest = past[2]
                bend = (slope - (older - oldest) / (b - c)) / (a - c)
                change = change + (m2 + (a - b) * m1) * bend
        x = math.exp(-h) * x + change
    return x


def moments(h: float) -> tuple[float, float, float]:
    """Integrals from 0 to h of exp(tau - h) tau^k, k = 0, 1, 2."""
    m0 = -math.expm1(-h)
    m1 = h - m0
    return m0, m1, h * h - 2 * m1


def bong_tangent(steps: int) -> Tensor:
    """Two arctangent curves that meet at 0.5, from 1 to 0: the schedule of RES4LYF, its defaults.

    Flow models; float64, (steps + 1,).
    """
    count = steps + 2
    pivot = int(count * 0.6)
    middle, slope = int((count * 0.6 + count * 0.6) / 2), 0.2 / (count / 40)
    first = _arctangent(middle, slope, pivot, 1.0, 0.5)
    second = _arctangent(count - middle, slope, pivot - middle, 0.5, 0.0)
    return torch.tensor(first[:-1] + second, dtype=torch.float64)


def _arctangent(count: int, slope: float, pivot: int, start: float, end: float) -> list[float]:
    curve = [math.atan(-slope * (i - pivot)) / math.pi + 0.5 for i in range(count)]
    if count < 2:
        return [start] * count
    return [(v - curve[-1]) / (curve[0] - curve[-1]) * (start - end) + end for v in curve]
