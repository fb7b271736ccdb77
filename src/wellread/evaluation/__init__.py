"""Step 5: how good the answers are and what they cost. Formulas, counts, metrics and reports."""
