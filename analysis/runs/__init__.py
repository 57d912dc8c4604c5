"""Run directories and tables: collection, anchors, tables that grow, and what commands write."""
