"""Meta-RL environments whose hidden task switches within an episode; importing this package registers them."""

from gymnasium.envs.registration import register

register(
    id="m3po/SwitchingPointMass-v0",
    entry_point="m3po.envs.switching_point_mass:SwitchingPointMass",
    vector_entry_point="m3po.envs.switching_point_mass:SwitchingPointMassVector",
    max_episode_steps=100,
)
