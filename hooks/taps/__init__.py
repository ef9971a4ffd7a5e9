"""Take part in the attention of decoder blocks, under any kernel: read query rows, hide keys, change what rows get."""
