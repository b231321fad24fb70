"""The mathematics: arrays in, arrays out. No path, clock, model, frame or record in here.

Shape suffixes: `_P` one value per prompt, `_R` one per response, `_I` one per pair. Responses of a prompt stand together;
`start_P` has one entry more than there are prompts, and prompt p owns the rows start_P[p] .. start_P[p + 1] - 1.
"""
