"""What the pages of this project have in common: their look, a trace over a picture, text that stays text. No torch."""
