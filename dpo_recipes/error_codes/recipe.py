"""R1xx and R2xx: reading a recipe, and its schema."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # R1xx: reading a recipe
    "R101": entry(
        "the recipe cannot be read",
        "The path does not name a file, or the file may not be opened.",
        "A bare name such as `quickstart` means a shipped recipe; `dpo-recipe ls` lists them.",
    ),
    "R102": entry(
        "not valid YAML",
        "The text cannot be parsed. The error points to where the parser stopped; the cause is often",
        "on the line above: an unclosed quote or bracket, a tab, or lost indentation.",
    ),
    "R103": entry(
        "a duplicate key",
        "Most YAML readers silently keep the last one. Here the recipe is refused, because",
        "it is unknown which value was meant.",
    ),
    "R104": entry(
        "a tag is used",
        "Tags such as !!python/object can make a reader build any object. Recipes come from",
        "other people, so they are plain data: mappings, lists, text, numbers, true, false, null.",
    ),
    "R105": entry(
        "aliases multiply",
        "An alias contains itself, or aliases of aliases expand to more than 20,000 values",
        "(the 'billion laughs' attack). A recipe that writes out so many values is refused too.",
    ),
    "R106": entry(
        "the recipe is too large", "Recipes are limited to 1 MB. Put data into files and name them in `data`."
    ),
    "R107": entry(
        "empty, or not a mapping", "A recipe is a mapping of sections: schema, name, model, data, and so on."
    ),
    "R108": entry("not UTF-8", "Recipes are UTF-8 text, with or without a byte order mark."),
    "R109": entry("nested too deeply", "No field of a recipe is deeper than a handful of levels."),
    "R110": entry("a key is not text", "Numbers, lists and null cannot be keys: every key is the name of a field."),
    "R111": entry(
        "the parent recipe is missing", "`extends:` names one file, relative to the recipe that contains it."
    ),
    "R112": entry(
        "recipes extend each other in a cycle", "Follow the chain of `extends:` that the error prints and break it."
    ),
    "R113": entry(
        "an override cannot be applied",
        "`--set` takes KEY=VALUE, where KEY is a path such as training.learning_rate or",
        'data.train[0].path, and VALUE is typed like YAML: 1e-5 is a number, "1e-5" is text, null is no value.',
    ),
    # R2xx: the schema
    "R201": entry(
        "unknown schema version", "The `schema:` number is the version of the recipe format. This release reads 1."
    ),
    "R202": entry(
        "a required field is missing", "Some fields have no sensible default. The error says where to add it."
    ),
    "R203": entry(
        "an unknown key",
        "A key that nothing reads is nearly always a typo, and a silently ignored typo is a run",
        "with other settings than you believe. Names of Axolotl, TRL and LLaMA-Factory are recognised in",
        "the hint. `dpo-recipe schema` prints every field; the reference is docs/recipe.md.",
    ),
    "R204": entry("not one of the possible values", "The field takes one of a few names; the error lists them."),
    "R205": entry(
        "the wrong type",
        'Types are not converted: "5" is text and not the number 5, yes and no are text (YAML 1.2),',
        "1e-5 is a number.",
    ),
    "R206": entry("out of range", "The number is outside what the field allows."),
    "R207": entry("the wrong form", "The text or list does not have the form that the field needs."),
}
