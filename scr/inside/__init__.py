"""What other tools load of this project by a name: models of lmms-eval, logits processors of vLLM.

Nothing of these tools is imported before they ask.
"""
