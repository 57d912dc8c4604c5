"""Pictures of MuJoCo environments without a screen, the body in the colour of its task."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

Colour = tuple[float, float, float]

# Blue and red are Figure 8's: to the right (task 0) and to the left (task 1).
TASK_COLOURS = ((0.13, 0.40, 0.78), (0.84, 0.20, 0.16), (0.20, 0.62, 0.36), (0.93, 0.60, 0.12), (0.55, 0.35, 0.70))

CRIPPLED_COLOUR = (0.15, 0.15, 0.15)

PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri libopengl0"


def choose_backend() -> None:
    """Import MuJoCo such that it draws through EGL, unless MUJOCO_GL says otherwise. To be called before others do.

    Raises:
        OSError: when this machine has no EGL, or not what MUJOCO_GL asks for.
    """
    if not os.environ.get("MUJOCO_GL"):
        try:
            ctypes.CDLL("libEGL.so.1")
        except OSError as error:
            missing = f"drawing needs EGL, which this machine lacks (on Debian: apt-get install {PACKAGES})"
            raise OSError(missing) from error
        os.environ["MUJOCO_GL"] = "egl"
    try:
        importlib.import_module("mujoco")
    except Exception as error:  # each OpenGL binding fails with its own
        raise _cannot_draw(error) from error


def _cannot_draw(error: Exception) -> OSError:
    return OSError(f"MuJoCo cannot draw here with MUJOCO_GL={os.environ.get('MUJOCO_GL')}: {error or type(error)}")


class TaskColours:
    """One colour for each task: by its number, or in the order of appearance where there are very many tasks."""

    def __init__(self, palette: Sequence[Colour], *, by_number: bool) -> None:
        self._palette = palette
        self._seen: list[int] = list(range(len(palette))) if by_number else []

    def __call__(self, task: int) -> Colour:
        if task not in self._seen:
            self._seen.append(task)
        return self._palette[self._seen.index(task) % len(self._palette)]


class Photographer:
    """Takes pictures of one MuJoCo environment, without shadows and reflections.

    Use it in a ``with`` block. The environment's physics is left as it is: the colours are the picture's.

    Args:
        environment: the bare environment.
        width, height: of a picture, in pixels.
        view: distance (m), azimuth and elevation (degrees) of a camera that looks at the torso; None takes the body's
            own tracking camera, which looks from the side.

    Raises:
        OSError: when no picture can be made on this machine.
    """

    def __init__(
        self, environment: Any, width: int, height: int, view: tuple[float, float, float] | None = None
    ) -> None:
        choose_backend()
        import mujoco

        self._mujoco = mujoco
        self._environment = environment
        self._view = view
        model = environment.model
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        model.vis.quality.offsamples = 4
        try:
            self._renderer = mujoco.Renderer(model, height, width)
        except Exception as error:
            raise _cannot_draw(error) from error
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._renderer.scene.flags[flag] = 0
        root = model.body("torso").id
        self._body = {int(geom) for geom in np.flatnonzero(model.body_rootid[model.geom_bodyid] == root)}

    def __enter__(self) -> Photographer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._renderer.close()

    def _camera(self) -> Any:
        if self._view is None:
            return "track"
        camera = self._mujoco.MjvCamera()
        camera.distance, camera.azimuth, camera.elevation = self._view
        camera.lookat[:] = self._environment.data.body("torso").xpos - np.array([0.0, 0.0, 0.25])
        return camera

    def picture(self, colour: Colour) -> Picture:
        """The present state, the robot in ``colour``; the parts that its task cripples are dark. [height, width, 3]."""
        environment = self._environment
        self._mujoco.mj_kinematics(environment.model, environment.data)
        self._renderer.update_scene(environment.data, camera=self._camera())
        crippled = environment.task_parameters(environment.task).get("geoms", ())
        scene = self._renderer.scene
        for geom in scene.geoms[: scene.ngeom]:
            if geom.objtype == self._mujoco.mjtObj.mjOBJ_GEOM and geom.objid in self._body:
                geom.matid = -1
                geom.rgba = (*(CRIPPLED_COLOUR if geom.objid in crippled else colour), 1.0)
        return np.array(self._renderer.render(), dtype=np.uint8)
