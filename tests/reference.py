"""SCR once more, naively: whole eager attention maps, selection in plain Python, plain hooks. Slow and obvious."""

from __future__ import annotations

import math

import torch


def reference_plan(
    grids: list[list[list[float]]],
    num_sources: int = 32,
    connectivity: int = 8,
    radius: int = 1,
    include_border: bool = False,
    selection: str = "top_k",
) -> tuple[list[int], list[int], list[int]]:
    """(sources, neighbors, owners) by reading the description of the method aloud."""
    patches = []  # (grid, row, column, attention), in flat order
    for number, grid in enumerate(grids):
        for row, values in enumerate(grid):
            for column, value in enumerate(values):
                patches.append((number, row, column, value))

    def is_eligible(index: int) -> bool:
        number, row, column, _ = patches[index]
        inside = 0 < row < len(grids[number]) - 1 and 0 < column < len(grids[number][0]) - 1
        return include_border or inside

    def are_neighbors(one: int, other: int) -> bool:
        if one == other or patches[one][0] != patches[other][0]:
            return False
        down, right = abs(patches[one][1] - patches[other][1]), abs(patches[one][2] - patches[other][2])
        return max(down, right) <= radius if connectivity == 8 else down + right <= radius

    everything = range(len(patches))
    candidates = sorted((i for i in everything if is_eligible(i)), key=lambda i: (-patches[i][3], i))
    sources: list[int] = []
    for candidate in candidates:
        if len(sources) == num_sources:
            break
        if selection == "greedy" and any(are_neighbors(candidate, source) for source in sources):
            continue
        sources.append(candidate)
    neighbors, owners = [], []
    for owner, source in enumerate(sources):
        for index in everything:
            if are_neighbors(source, index) and index not in sources and index not in neighbors:
                neighbors.append(index)
                owners.append(owner)
    return sources, neighbors, owners


def decoder_of(model):
    """The module of the decoder blocks; of Llama 4, transformers returns what is around it."""
    decoder = model.get_decoder()
    return decoder if hasattr(decoder, "layers") else decoder.model


def maps_by_block(model, attentions: tuple) -> dict[int, torch.Tensor]:
    """Block → its maps: one without self-attention puts out none."""
    blocks = [index for index, layer in enumerate(decoder_of(model).layers) if hasattr(layer, "self_attn")]
    return dict(zip(blocks, attentions, strict=True))


def reference_attention(
    model, inputs: dict, row: int, positions: list[int], visual, layers: range, heads: float = 1.0, queries=None
) -> torch.Tensor:
    """A of one image: mean over heads, layers and the text after it, from the whole maps of an eager model.

    `heads` is the share of them that vote, those of the lowest entropy; `queries` are who looks, in place of the text.
    """
    real = inputs["attention_mask"][row].bool()
    if queries is None:
        queries = [q for q in range(len(real)) if real[q] and not visual[row, q] and q > max(positions)]
    with torch.no_grad():
        attentions = maps_by_block(model, model(**inputs, output_attentions=True).attentions)
    layers = [layer for layer in layers if layer in attentions]
    total = torch.zeros(len(positions))
    for layer in layers:
        own = []
        for head in range(attentions[layer].shape[1]):
            one = torch.zeros(len(positions))
            for query in queries:
                one += attentions[layer][row, head, query, positions]
            seen = float(one.sum())
            shares = [value / seen for value in one.tolist() if value]
            own.append((-sum(share * math.log(share) for share in shares) if seen else math.inf, one))
        voters = sorted(own, key=lambda pair: pair[0])[: math.ceil(heads * len(own))]
        for _, one in voters:
            total += one / len(voters)
    return total / (len(layers) * len(queries))


def reference_logits(
    model, inputs: dict, layout: dict, visual, config, plans: dict | None = None, maps: dict | None = None
) -> torch.Tensor:
    """Logits of an eager model with plain hooks on its blocks; fills `plans` with (row, image) → plan and attention.

    `layout` says where each image's patches are: (row, image) → (positions, shapes of its grids). `visual` says which
    tokens are image tokens. `maps` are the images' in place of what their text attends to.
    """
    plans = {} if plans is None else plans
    edits = []  # (row, source token, [neighbour tokens])
    for (row, image), (positions, shapes) in layout.items():
        if maps is not None:
            attention = maps[row, image]
        else:
            asking = positions[-shapes[-1][1] :] if config.map_from == "image" else None
            attention = reference_attention(
                model, inputs, row, positions, visual, config.attention_layers, config.heads, asking
            )
        grids, left = [], attention.tolist()
        for height, width in shapes:
            grids.append([left[start : start + width] for start in range(0, height * width, width)])
            left = left[height * width :]
        plan = reference_plan(
            grids, config.num_sources, config.connectivity, config.radius, config.include_border, config.selection
        )
        plans[row, image] = (*plan, attention)
        sources, neighbors, owners = plan
        for number, source in enumerate(sources):
            mine = [positions[n] for n, owner in zip(neighbors, owners, strict=True) if owner == number]
            edits.append((row, positions[source], mine))

    def edited(old):
        hidden = old.clone()
        for row, source, neighbors in edits:
            for neighbor in neighbors:
                hidden[row, neighbor] = old[row, neighbor] + (config.scale - 1) * old[row, source]
            hidden[row, source] = old[row, source] / config.scale
        return hidden

    def hook(module, args, output):
        return (edited(output[0]), *output[1:]) if isinstance(output, tuple) else edited(output)

    decoder, added = decoder_of(model), 0
    if hasattr(decoder, "_deepstack_process"):  # what Qwen3-VL's decoder adds after its first blocks, once for each
        add, levels = decoder._deepstack_process, []
        added = len(model.config.vision_config.deepstack_visual_indexes)

        def add_and_edit(*args):
            levels.append(add(*args))
            return edited(levels[-1]) if len(levels) - 1 in config.layers else levels[-1]

        decoder._deepstack_process = add_and_edit
    handles = [decoder.layers[layer].register_forward_hook(hook) for layer in config.layers if layer >= added]
    try:
        with torch.no_grad():
            return model(**inputs).logits
    finally:
        for handle in handles:
            handle.remove()
        vars(decoder).pop("_deepstack_process", None)


def squares(inputs: dict, image_token: int, side: int) -> dict:
    """Layout of prompts whose every image is one square of image tokens."""
    layout = {}
    for row, ids in enumerate(inputs["input_ids"]):
        tokens = (ids == image_token).nonzero().flatten().tolist()
        for image in range(len(tokens) // side**2):
            layout[row, image] = (tokens[image * side**2 : (image + 1) * side**2], [(side, side)])
    return layout
