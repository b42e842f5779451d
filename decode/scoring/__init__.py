"""How well it went: galleries, comparisons, intervals, ceilings."""
