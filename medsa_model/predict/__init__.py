"""`medsa-predict`: from a trained adapter to masks on new images, without labels and without code.

`cli` reads the command, `inputs` finds the cases, `asked` and `prompt_files` read prompts,
`places` turns them into the model frame, `opened` reads a case, `segment` segments it, `run` goes
through all cases, `results` writes the files; `overlays`, `scores` and `page` show them.
"""
