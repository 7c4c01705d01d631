"""D4xx: data."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # D4xx: data
    "D401": entry(
        "a data file cannot be read",
        "The file is damaged, incomplete, or not of the kind that its name says. The error",
        "names the line.",
    ),
    "D402": entry(
        "columns are missing",
        "No format fits the columns that the data has. Map names with `columns:`, for example",
        "columns: {prompt: question, chosen: better, rejected: worse}.",
    ),
    "D403": entry("a source without rows", "The file or split is empty."),
    "D404": entry(
        "a row that is not a preference",
        "A text is missing or empty, roles are unknown or out of order, or the two answers do not belong to the same",
        "prompt. `on_bad_row: drop` leaves such rows out and counts them; `max_bad_fraction` allows a share of them.",
    ),
    "D405": entry(
        "chosen equals rejected", "Such a row teaches nothing. `on_bad_row: drop` leaves it out and counts it."
    ),
    "D406": entry("several formats fit", "The same columns can be read in more than one way. Name one with `format:`."),
    "D407": entry("too few rows to split", "After holding out `data.eval.fraction`, one of the sides would be empty."),
    "D408": entry("a pair is too long", "With `overlong: error`, no pair may have more than `max_length` tokens."),
    "D409": entry("every row was dropped", "The counts say why; look at `max_length`, `format` and `columns`."),
    "D410": entry(
        "a hub dataset cannot be loaded",
        "The id, configuration, split or revision does not exist, or the hub cannot be reached.",
    ),
    "D411": entry("a library for data is missing", "It is in an extra of dpo-recipe; the error says which."),
    "D412": entry(
        "a column of `filter` or `select` is missing", "These use the names that the file has, before `columns:`."
    ),
    "D413": entry(
        "single answers where pairs are needed",
        "DPO learns from two answers to one prompt. Single answers with a label are for KTO.",
    ),
    "D420": entry(
        "the chat template fails",
        "The template raised an error on a conversation, for example because it allows no",
        "system message. Choose another template, or change the data.",
    ),
    "D421": entry(
        "the tokenizer lacks special tokens of the template",
        "`model.add_special_tokens: true` adds them and trains their embeddings; `false` leaves them as text.",
    ),
    "D422": entry(
        "two beginning-of-sequence tokens",
        "The template and the data both write one. A model has never seen that in training.",
    ),
    "D423": entry(
        "answers without an end",
        "No answer ends with the end-of-sequence token or the template's end of turn, so the model would never stop.",
        "A warning when only some rows are so.",
    ),
    "D424": entry("the template drops tools", "Calls of tools are in the data but not in what the template renders."),
    "D425": entry(
        "prompts that are rendered already",
        "Their texts hold special tokens of the tokenizer or marks of a chat template, and the template would be",
        "written around them once more. `format: passthrough` tokenizes such texts as they stand. A warning when only",
        "some rows are so.",
    ),
    "D426": entry(
        "answers that end twice",
        "The answers end with a mark such as `</s>`, and the template writes its own end after each of them. Remove",
        "the mark from the data. A warning when only some rows are so.",
    ),
    "D427": entry(
        "the template drops the reasoning of answers",
        "`reasoning_content`, `thinking` or `reasoning` of a message, or `<think>...</think>` in its text, is not in",
        "what the template renders. A warning when only some rows are so.",
    ),
    "D428": entry(
        "the template ignores add_generation_prompt",
        "It writes the beginning of the next answer after a finished answer as well, which would be trained on as its",
        "end.",
    ),
    "D429": entry(
        "the turns of an answer cannot be told apart",
        "The answers have several turns. What the user or a tool says there is not trained on, but the template writes",
        "turns so that it cannot be found. `data.train_on_turns: all` trains on everything.",
    ),
    "D430": entry(
        "answers that become the same tokens",
        "Cutting to `max_length`, or the template, leaves no difference between chosen and rejected. Such pairs are",
        "dropped and counted, since nothing can be learned from them; an error when all pairs are so.",
    ),
    "D431": entry(
        "answers that repeat their prompt",
        "An answer begins with what was asked, or both answers hold it, as files do that store whole conversations as",
        "texts. An error when all rows are so; `accept_advice: [D431]` where it is meant.",
    ),
    "D432": entry(
        "pairs that contradict each other",
        "One row prefers an answer that another row rejects, with the same prompt and the same other answer. An error",
        "when all rows are so.",
    ),
    "D433": entry(
        "words for a missing value",
        "A prompt or an answer is `null`, `None`, `nan`, `N/A`, `undefined` or the like. An error when all rows are",
        "so.",
    ),
    "D440": entry(
        "warning: images, videos or audio that the model never sees",
        "A column such as `images` has something in it, or texts hold `<image>`. The model reads text alone, and would",
        "learn to talk about pictures without seeing them.",
    ),
    "D441": entry(
        "warning: a column that nobody reads",
        "Its name says that the model should see it (`system_prompt`, `input`, `history`, `functions`), and the format",
        "does not use it. Map it with `columns:`. A column that says nothing new is only listed in data_report.json.",
    ),
    "D442": entry(
        "warning: a verdict that nobody reads",
        "A column such as `winner`, `preference` or `label` may say which answer is better, or a score of the chosen",
        "answer is lower than that of the rejected one, and the format does not look at it.",
    ),
    "D443": entry(
        "warning: a dialogue inside a message",
        "A text holds turns of `Human:` or `Assistant:`, and all of it would be trained on as words of one of them.",
    ),
    "D490": entry(
        "warning: prompts on both sides",
        "Held-out prompts that are also in the training data measure memory, not skill.",
    ),
    "D491": entry(
        "warning: answers do not continue where the prompt ends",
        "The generation prompt, or the prompt itself, is rendered differently once an answer follows, or a token",
        "reaches over its end; the warning says which. The tokens that differ are trained on.",
    ),
    "D492": entry(
        "warning: the template drops or rewrites a message",
        "A message's text is not in what the template renders: some templates have no system message, and some cut",
        "reasoning from past turns.",
    ),
    "D493": entry(
        "warning: no beginning-of-sequence token",
        "The tokenizer puts one before every text, so the model has always seen it, but the template writes none.",
    ),
    "D494": entry(
        "warning: special tokens in answers",
        "An answer holds special tokens of the tokenizer or marks of a chat template other than at its end, so it is",
        "rendered already, or breaks out of its turn.",
    ),
    "D495": entry(
        "warning: the template leaves out the reasoning of earlier turns",
        "Many templates keep only the reasoning after the last question. That of the trained answers is D427.",
    ),
    "D496": entry(
        "warning: the template writes no generation prompt",
        "What answers begin with in such a template is trained on as a part of each answer.",
    ),
}
