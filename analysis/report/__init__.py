"""One page about a run: findings, answer, sections, charts, templates."""
