"""Meta-RL environments whose hidden task switches within an episode; importing this package registers them."""

from gymnasium.envs.registration import register

register(
    id="m3po/SwitchingPointMass-v0",
    entry_point="m3po.envs.switching_point_mass:SwitchingPointMass",
    vector_entry_point="m3po.envs.switching_point_mass:SwitchingPointMassVector",
    max_episode_steps=100,
)

HORIZON = 1000

for _name, _module in (
    ("HalfCheetahFwdBwd", "half_cheetah"),
    ("HalfCheetahPier", "half_cheetah"),
    ("AntFwdBwd", "ant"),
    ("AntCrippledLeg", "ant"),
    ("Walker2dRandomParams", "walker2d"),
    ("HumanoidDirec", "humanoid"),
):
    register(
        id=f"m3po/{_name}-v0",
        entry_point=f"m3po.envs.{_module}:{_name}",
        vector_entry_point=f"m3po.envs.{_module}:{_name}Vector",
        max_episode_steps=HORIZON,
    )
