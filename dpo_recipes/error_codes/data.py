"""D4xx: data."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # D4xx: data
    "D401": entry(
        "a data file cannot be read",
        "The file is damaged, incomplete, or not of the type of its suffix. The error names the line.",
    ),
    "D402": entry(
        "columns are missing",
        "No format fits the columns of the data. Map names with `columns:`, for example",
        "columns: {prompt: question, chosen: better, rejected: worse}.",
    ),
    "D403": entry("a source without rows", "The file or split is empty."),
    "D404": entry(
        "a row that is not a preference",
        "A text is missing or empty, roles are unknown or out of order, or the two answers do not belong to the same",
        "prompt. `on_bad_row: drop` drops such rows and counts them; `max_bad_fraction` allows a share of them.",
    ),
    "D405": entry("chosen equals rejected", "Such a row teaches nothing. `on_bad_row: drop` drops it and counts it."),
    "D406": entry("several formats fit", "The same columns can be read in more than one way. Name one with `format:`."),
    "D407": entry(
        "too few rows to split", "After holding out `data.eval` or `data.test`, one of the splits would be empty."
    ),
    "D408": entry("a row is too long", "With `overlong: error`, no row may have more than `max_length` tokens."),
    "D409": entry("every row was dropped", "The counts show why; check `max_length`, `format` and `columns`."),
    "D410": entry(
        "a hub dataset cannot be loaded",
        "The id, configuration, split or revision does not exist, or the hub cannot be reached.",
    ),
    "D411": entry("a library for data is missing", "It is in an extra of dpo-recipe; the error says which."),
    "D412": entry(
        "a column of `filter` or `select` is missing", "Both use the names in the file, before `columns:` applies."
    ),
    "D413": entry(
        "rows that the objective cannot learn from",
        "Pairs become labelled rows or answers to imitate if the objective needs them, and good labelled answers "
        "become answers to imitate. Pairs cannot be made from single answers, nor labels for answers without any.",
        "Use other data, or the objective that the error names.",
    ),
    "D414": entry(
        "answers of one class",
        "An objective on labelled rows learns from the contrast of good and bad answers. All training rows have the "
        "same label, or only good or only bad ones are left after rows were selected and dropped.",
        "Add answers of the other class; `objective: {kind: sft}` imitates good answers alone.",
    ),
    "D415": entry(
        "too many subsets",
        "`columns: {subset: ...}` names a column with more than 100 different values. An accuracy would be logged for",
        "each of them, on very few rows. Name a column with few values, such as a category.",
    ),
    "D417": entry(
        "a reward source reads a column that the rows do not have",
        "The rule `exact` and functions with `takes` read columns beside the prompt. `columns:` of a source of rows",
        "can map a column of the file to the name that the reward source expects.",
    ),
    "D418": entry(
        "a reward model cannot read these prompts",
        "A reward model reads messages in its own template. Prompts that a template has already rendered have no",
        "messages any more.",
    ),
    "D420": entry(
        "the chat template fails",
        "The template raised an error for a conversation, for example because it does not support system messages.",
        "Choose another template, or change the data.",
    ),
    "D421": entry(
        "the tokenizer lacks special tokens of the template",
        "`model.add_special_tokens: true` adds them and trains their embeddings; with `false` they remain ordinary",
        "text.",
    ),
    "D422": entry(
        "two beginning-of-sequence tokens",
        "The template writes one although the data contains one, or it writes two. Models never see that in",
        "pretraining.",
    ),
    "D423": entry(
        "answers without an end",
        "No answer ends with the end-of-sequence token or the template's end of turn, so the model would never stop.",
        "A warning if only some rows are affected.",
    ),
    "D424": entry(
        "the template drops tools", "The data contains tools or tool calls that the template does not render."
    ),
    "D425": entry(
        "prompts that are already rendered",
        "Their texts contain special tokens of the tokenizer or marks of a chat template, or end with the words that",
        "begin an answer (`### Response:`, `USER: ... ASSISTANT:`), and the template would be applied twice. `format:",
        "passthrough` tokenizes such texts unchanged. A warning if only some rows are affected.",
    ),
    "D426": entry(
        "answers that end twice",
        "The answers end with a mark such as `</s>`, and the template writes its own end after each of them. Remove",
        "the mark from the data. A warning if only some rows are affected.",
    ),
    "D427": entry(
        "the template drops the reasoning of answers",
        "The template does not render `reasoning_content`, `thinking` or `reasoning` of a message, or the",
        "`<think>...</think>` in its text. A warning if only some rows are affected.",
    ),
    "D428": entry(
        "the template ignores add_generation_prompt",
        "It also writes the generation prompt after a finished answer, where it would be trained on as the answer's",
        "end.",
    ),
    "D429": entry(
        "the turns of an answer cannot be distinguished",
        "The answers have several turns. Those of the user or a tool are not trained on, but they cannot be located in",
        "the text that the template renders. `data.train_on_turns: all` trains on all turns.",
    ),
    "D430": entry(
        "answers that become the same tokens",
        "After truncation to `max_length`, or in the template's text, chosen and rejected do not differ. Such pairs",
        "teach nothing; they are dropped and counted. An error if all pairs are affected.",
    ),
    "D431": entry(
        "answers that repeat their prompt",
        "An answer starts with the question, or both answers contain it, as in files that store whole conversations as",
        "texts. An error if all rows are affected; `accept_advice: [D431]` if it is intended.",
    ),
    "D432": entry(
        "pairs that contradict each other",
        "One row prefers the answer that another row rejects, with the same prompt and the same two answers. An error",
        "if all rows are affected.",
    ),
    "D433": entry(
        "words for a missing value",
        "A prompt or an answer is `null`, `None`, `nan`, `N/A`, `undefined` or a similar word. An error if all rows",
        "are affected.",
    ),
    "D436": entry(
        "a single row for KTO",
        "KTO estimates a KL divergence from the answers of other rows, so each split needs at least two rows.",
        "`loss_type: apo_zero_unpaired` needs no estimate.",
    ),
    "D440": entry(
        "warning: images, videos or audio that the model never sees",
        "A column such as `images` is not empty, or texts contain `<image>`. The model only reads text and would learn",
        "to talk about pictures without seeing them.",
    ),
    "D441": entry(
        "warning: a column that is not read",
        "Its name suggests that the model should see it (`system_prompt`, `input`, `history`, `functions`), but the",
        "format does not use it. Map it with `columns:`. A column whose texts are already in the row is only listed",
        "in data_report.json.",
    ),
    "D442": entry(
        "warning: a verdict that is not read",
        "A column such as `winner`, `preference` or `label` may name the better answer, or the score of the chosen",
        "answer is lower than that of the rejected one, but the format does not read it.",
    ),
    "D443": entry(
        "warning: a dialogue inside a message",
        "A text contains turns of `Human:` or `Assistant:`, and all of it would be read as the text of one speaker.",
    ),
    "D444": entry(
        "warning: lists of texts in the place of a text",
        "The prompts, or both answers, of at least half of the rows are texts such as `['The oak.', 'The elm.']`: a",
        "list that a program wrote as text. Name the element to read, or write the file with real lists.",
    ),
    "D490": entry(
        "warning: held-out prompts in the training data",
        "Held-out prompts that are also in the training data measure memorization, not generalization.",
    ),
    "D491": entry(
        "warning: answers do not continue where the prompt ends",
        "The generation prompt, or the prompt itself, is rendered differently if an answer follows, or one token spans",
        "its end; the warning says which. The tokens that differ are trained on.",
    ),
    "D492": entry(
        "warning: the template drops or rewrites a message",
        "The text of a message is not in the template's output: some templates do not support system messages, and",
        "some drop the reasoning of earlier turns.",
    ),
    "D493": entry(
        "warning: no beginning-of-sequence token",
        "The tokenizer adds one to every text, so the model was pretrained with it, but the template writes none.",
    ),
    "D494": entry(
        "warning: special tokens in answers",
        "An answer contains special tokens of the tokenizer or marks of a chat template before its end. It is probably",
        "already rendered.",
    ),
    "D495": entry(
        "warning: the template drops the reasoning of earlier turns",
        "Many templates only keep the reasoning after the last question. D427 is about the trained answers.",
    ),
    "D496": entry(
        "warning: the template writes no generation prompt",
        "The text that such a template writes before an answer is trained on as part of each answer.",
    ),
}
