"""Meta-RL environments whose hidden task switches within an episode; importing this package registers them."""

from gymnasium.envs.registration import register

register(
    id="m3po/SwitchingPointMass-v0",
    entry_point="m3po.envs.switching_point_mass:SwitchingPointMass",
    vector_entry_point="m3po.envs.switching_point_mass:SwitchingPointMassVector",
    max_episode_steps=100,
)

HORIZON = 1000

register("m3po/HalfCheetahFwdBwd-v0", "m3po.envs.half_cheetah:HalfCheetahFwdBwd", max_episode_steps=HORIZON)
register("m3po/HalfCheetahPier-v0", "m3po.envs.half_cheetah:HalfCheetahPier", max_episode_steps=HORIZON)
register("m3po/AntFwdBwd-v0", "m3po.envs.ant:AntFwdBwd", max_episode_steps=HORIZON)
register("m3po/AntCrippledLeg-v0", "m3po.envs.ant:AntCrippledLeg", max_episode_steps=HORIZON)
register("m3po/Walker2dRandomParams-v0", "m3po.envs.walker2d:Walker2dRandomParams", max_episode_steps=HORIZON)
register("m3po/HumanoidDirec-v0", "m3po.envs.humanoid:HumanoidDirec", max_episode_steps=HORIZON)
