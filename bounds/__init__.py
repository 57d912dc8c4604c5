"""Return guarantees for model-based (meta-)RL: theorems as code, proved, evaluated and attacked."""
