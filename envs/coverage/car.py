"""A model car in scale 1:43: a bicycle with tyres that slide, and without slip when it is slow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace

# SI units.
MASS, INERTIA = 0.041, 27.8e-6
FRONT, REAR = 0.029, 0.033  # from the centre of mass to the axles
BASE = FRONT + REAR
MOTOR, MOTOR_SLOPE, ROLLING, DRAG = 0.287, 0.0545, 0.0518, 0.00035
# Of the tyres' forces: stiffness, shape, peak.
FRONT_TYRE = (2.579, 1.2, 1.05 * 0.192)
REAR_TYRE = (3.3852 / 1.2, 1.2691, 1.2 * 0.1737)
# m/s: below and above, only one of the two models counts. Tyres answer the faster the slower the
# car is; from SLOW on, what a step of LONGEST seconds makes of that, mixed, stays damped.
SLOW, FAST = 0.4, 0.6
LONGEST = 0.03  # seconds of an integration step


def drive(car: Any, throttle: Any, angle: Any, seconds: float) -> Any:
    """State of cars after some time with constant controls.

    Args:
        car: x, y (m), heading (rad), v_x and v_y (m/s, along and across the car, to the left), yaw
            rate (rad/s), float [6, n].
        throttle: in [-1, 1], float [n]; the car brakes below 0 and never drives backwards.
        angle: of the front wheels in rad, to the left, float [n].
        seconds: how long, above 0.

    Returns:
        [6, n].
    """
    xp = array_namespace(car)
    parts = max(1, int(np.ceil(seconds / LONGEST - 1e-9)))
    wheels = (angle, xp.sin(angle), xp.cos(angle))
    lean = xp.tan(angle) / BASE
    for _ in range(parts):
        slid = runge_kutta(lambda state: sliding(xp, state, throttle, wheels), car, seconds / parts)
        rolled = runge_kutta(
            lambda state: rolling(xp, state, throttle, lean), car[:4], seconds / parts
        )
        speed = xp.where(rolled[3] > 0, rolled[3], 0.0)
        grip = xp.stack([*rolled[:3], speed, speed * lean * REAR, speed * lean])
        share = xp.clip((car[3] - SLOW) / (FAST - SLOW), 0.0, 1.0)
        car = share * slid + (1.0 - share) * grip
    return car


def runge_kutta(slope: Callable[[Any], Any], state: Any, seconds: float) -> Any:
    """One step of the classical method of fourth order."""
    first = slope(state)
    second = slope(state + 0.5 * seconds * first)
    third = slope(state + 0.5 * seconds * second)
    fourth = slope(state + seconds * third)
    return state + seconds / 6 * (first + 2.0 * (second + third) + fourth)


def push(speed: Any, throttle: Any) -> Any:
    """Force of motor, brakes and resistance along the car, in N."""
    return (MOTOR - MOTOR_SLOPE * speed) * throttle - ROLLING - DRAG * speed * speed


def rolling(xp: Any, car: Any, throttle: Any, lean: Any) -> Any:
    """Slope of (x, y, heading, v_x) of a car whose wheels roll where they point, [4, n].

    Args:
        xp: array library.
        car: [4, n].
        throttle: [n].
        lean: yaw rate per speed, tan(angle) / wheel base, [n].
    """
    _, _, heading, speed = car
    speed = xp.where(speed > 0, speed, 0.0)
    aside = speed * lean * REAR
    sine, cosine = xp.sin(heading), xp.cos(heading)
    return xp.stack(
        [
            speed * cosine - aside * sine,
            speed * sine + aside * cosine,
            speed * lean,
            push(speed, throttle) / MASS,
        ]
    )


def sliding(xp: Any, car: Any, throttle: Any, wheels: tuple[Any, Any, Any]) -> Any:
    """Slope of the whole state with the forces of the tyres, [6, n].

    Args:
        xp: array library.
        car: [6, n].
        throttle: [n].
        wheels: angle of the front wheels, its sine and its cosine, [n] each.
    """
    _, _, heading, speed, aside, yaw = car
    angle, angle_sine, angle_cosine = wheels
    rolling_speed = xp.where(speed > SLOW, speed, SLOW)  # below it this model does not count
    front = tyre(xp, angle - xp.atan((aside + FRONT * yaw) / rolling_speed), FRONT_TYRE)
    rear = tyre(xp, xp.atan((REAR * yaw - aside) / rolling_speed), REAR_TYRE)
    sine, cosine = xp.sin(heading), xp.cos(heading)
    turned = front * angle_cosine
    return xp.stack(
        [
            speed * cosine - aside * sine,
            speed * sine + aside * cosine,
            yaw,
            (push(speed, throttle) - front * angle_sine) / MASS + aside * yaw,
            (rear + turned) / MASS - speed * yaw,
            (turned * FRONT - rear * REAR) / INERTIA,
        ]
    )


def tyre(xp: Any, slip: Any, numbers: tuple[float, float, float]) -> Any:
    """Sideways force of an axle in N at a slip angle in rad (Pacejka's formula), [n]."""
    stiffness, shape, peak = numbers
    return peak * xp.sin(shape * xp.atan(stiffness * slip))
