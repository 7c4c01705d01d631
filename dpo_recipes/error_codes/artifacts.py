"""S: packing, verifying and fetching recipes."""

from dpo_recipes.error_codes.entry import entry

CODES = {
    # packing
    "S201": entry(
        "a file of the recipe cannot be packed",
        "A template that the recipe names does not exist, or a recipe is a link to a file in another folder: paths",
        "in a recipe are relative to its real folder, which an artifact cannot keep for a link.",
    ),
    "S202": entry(
        "a name that no file of an artifact can have",
        "Names of files in an artifact must be possible on Linux, macOS and Windows: no control characters, no",
        "colons or backslashes, no dots or spaces at the end, at most 155 bytes. For example, rename `pairs:",
        "final.jsonl` to `pairs-final.jsonl`.",
    ),
    "S203": entry(
        "too much data for an artifact",
        "`dpo-recipe pack --with-data` packs small files of data, 50 MB by default. `--data-limit MB` raises the",
        "limit. Larger data belong on the hub or behind a URL, where they are fetched only by those who run the",
        "recipe.",
    ),
    "S205": entry(
        "there is no adapter to pack",
        "`--with-adapter` packs adapter_model.safetensors and adapter_config.json of the run that `--with-results`",
        "names, or of the local folder in `model.adapter.path`. Whole models and pickles are not packed.",
    ),
    "S206": entry(
        "a run of another recipe",
        "`dpo-recipe pack --with-results RUN` takes a run of the recipe that is packed: one with the same `name`.",
    ),
    "S208": entry(
        "an artifact cannot be signed",
        "`dpo-recipe pack --sign KEY` needs ssh-keygen (OpenSSH 8.1 or newer) and a private SSH key, or the public",
        "one if an agent has the private key. `ssh-keygen -t ed25519` makes a pair of keys.",
    ),
    "S209": entry(
        "the lock of an artifact or of a shipped recipe cannot be made here",
        "An artifact stays what its author has packed. `dpo-recipe pull REF` unpacks it into a folder, where the",
        "recipe and its lock can be changed. `--lock off` runs it without its lock, and `--lock inputs` with other",
        "versions of packages. A shipped recipe belongs to the package: `dpo-recipe cp NAME .` copies it.",
    ),
    # verifying
    "S301": entry(
        "not an artifact",
        "An artifact is a plain tar archive that `dpo-recipe pack` has made. It is never compressed, so that its",
        "size limits what it can unpack to. A truncated or damaged file is refused with this code too: fetch it",
        "again.",
    ),
    "S302": entry(
        "something in an artifact is no plain file",
        "Links, devices, pipes, folders, sparse files and extended headers can write outside of a folder or change",
        "the names of other files, so an artifact has none. The headers of its plain files have one possible form:",
        "owner 0, time 0, mode 0644. Archives of other programs are refused for that reason.",
    ),
    "S303": entry(
        "a name that leads out of the artifact",
        "A file such as `../../.ssh/authorized_keys` would be written outside of the folder of the artifact.",
        "Absolute names, drive letters, backslashes, control characters and names of devices are refused too.",
    ),
    "S304": entry(
        "two files with one name",
        "`Pairs.jsonl` and `pairs.jsonl` are one file on macOS and Windows, and so are two spellings of an accented",
        "letter in Unicode. What was checked could be another file than the one that is used, so both are refused.",
    ),
    "S305": entry(
        "too large for an artifact",
        "An artifact has at most 4 GiB and 1,000 files, a recipe or template in it at most 1 MB. Compressed data",
        "must not become more than 200 times larger, or more than 8 GiB: such a file is a bomb that fills the disk.",
    ),
    "S306": entry(
        "the manifest does not fit the files",
        "The first file of an artifact is `manifest.json`. It names all others with size and SHA-256, in the order",
        "of their names. A file that it does not name, or names and is not there, was added or removed later.",
    ),
    "S307": entry(
        "a file was changed after it was packed",
        "Size and SHA-256 of each file must be those of the manifest. Do not use the artifact: fetch it again, or",
        "ask its author.",
    ),
    "S308": entry(
        "a file that no artifact has",
        "An artifact has recipes, locks, chat templates, data, results and adapters as safetensors. Pickles",
        "(`.bin`, `.pt`, `.pkl`), Python, programs and configurations that make libraries import code are refused,",
        "whatever the name of the file says.",
    ),
    "S310": entry(
        "a recipe in the artifact cannot be read",
        "Recipes in an artifact are read as strictly as others: UTF-8, no tags such as `!!python/object`, no",
        "duplicate keys, no aliases that multiply. The code in brackets is that of the same error in a recipe on",
        "disk.",
    ),
    "S311": entry(
        "a secret in an artifact",
        "A key such as `api_key`, or a value that is a token of the hub or W&B, a JSON web token, or an address",
        "with a password. Remove it. If it was shared before, revoke it.",
    ),
    "S312": entry(
        "a path of one machine",
        "An absolute path, one in a home folder, or one that leads out of the artifact means nothing, or something",
        "else, on another machine. Write paths relative to the recipe. `output_dir` must stay below the current",
        "folder. Values of one machine can be given when it is run: `--set output_dir=/scratch/runs`.",
    ),
    "S313": entry(
        "an artifact of a newer version",
        "A newer dpo-recipe has packed it, and its form has changed since. Upgrade dpo-recipe.",
    ),
    "S314": entry(
        "a wrong signature",
        "The signature in the artifact is not one of its manifest: it was changed after it was signed, or the",
        "signature is one for another purpose. An artifact without any signature is not an error.",
    ),
    "S315": entry(
        "not signed by a trusted key",
        "`--require-signature` refuses artifacts that no key of the allowed signers file has signed. A line of that",
        "file is a name and a public key: `anna@example.org ssh-ed25519 AAAA...`. Git reads the same file.",
    ),
    "S316": entry(
        "a report that does more than show a page",
        "The reports of dpo-recipe are HTML without scripts that load nothing. One with a script could read what",
        "your browser has access to.",
    ),
    "S318": entry(
        "not a safetensors file",
        "The header of a `.safetensors` file names tensors that fill the file without gaps. This one does not, so",
        "it is damaged, or another kind of file under this name.",
    ),
    "S320": entry(
        "a chat template that tries to leave the sandbox",
        "A chat template is a program of Jinja, which runs in a sandbox. It needs messages and tokens only. One",
        "that reads private attributes such as `__class__`, or loads other templates, tries to reach Python itself.",
    ),
    "S321": entry(
        "a chat template that does not end in time",
        "A template is rendered with five short conversations in a process with limits: 2 processor seconds and 1",
        "GiB of memory for all templates of an artifact. Usual ones need milliseconds.",
    ),
    "S322": entry(
        "a chat template with a syntax error",
        "The template in the artifact cannot be compiled by Jinja.",
    ),
    # references
    "S401": entry(
        "not a reference to a recipe",
        "A recipe is named by a path, the name of a shipped recipe, the path of an artifact, or an address:",
        "`oci://REGISTRY/NAME:TAG`, `hf://OWNER/NAME` or `https://HOST/FILE#sha256=DIGEST`. An `https://` address",
        "needs the SHA-256 of the file, because what is behind an address can change at any time.",
    ),
    "S402": entry(
        "a reference cannot be reached",
        "The server does not answer, or answers that it has failed. What was fetched before is in the cache and",
        "needs no network; a tag then stands for what it was the last time.",
    ),
    "S403": entry(
        "a server refuses access",
        "It wants a login, or your account may not read or write this. `docker login REGISTRY` and `hf auth login`",
        "store what is needed.",
    ),
    "S404": entry(
        "there is no such thing on the server",
        "Check name and tag. Private things look absent without a login.",
    ),
    "S405": entry(
        "another content than expected",
        "The SHA-256 of what a server has sent is not the one in the reference, or the one that the server itself",
        "has promised. It was not kept.",
    ),
    "S406": entry(
        "half a download",
        "The connection has ended before all bytes had arrived. Nothing of it was kept.",
    ),
    "S407": entry(
        "several artifacts under one reference",
        "A repository on the hub has several files that end in `.recipe.tar`, or an image in a registry has several",
        "layers that are artifacts. Name one: `hf://OWNER/NAME/FILE.recipe.tar`. In a registry, each artifact needs",
        "a tag of its own.",
    ),
    "S408": entry(
        "nobody can be asked whether to run it",
        "A recipe from elsewhere is shown before it is run here for the first time, and a person decides. In a",
        "script, or without a terminal, add `--yes` when you have read what `dpo-recipe inspect REF` prints. An",
        "artifact that you have packed or allowed once is not asked about again.",
    ),
    "S409": entry(
        "you have not allowed it",
        "The answer to the question whether to run the recipe was not `y`. Nothing was run.",
    ),
    "S410": entry(
        "the cache cannot be written",
        "Artifacts are unpacked in the cache. Free some space, or set DPO_RECIPE_CACHE to another folder.",
    ),
    "S411": entry(
        "a registry does not store the artifact",
        "It does not accept the type or the size. Artifacts need a registry with the OCI image manifest: Docker's",
        "distribution, Harbor, Zot, ghcr.io, GitLab, ECR, GCR, ACR and Docker Hub have it.",
    ),
    "S412": entry(
        "a tag leads to something else",
        "Others may use the tag, so it is not moved without being asked to: `dpo-recipe push ... --move-tag`.",
        "Whoever has fetched it before is told that it has moved.",
    ),
    "S413": entry(
        "not a recipe",
        "The reference leads to an image of a container, or to something else in the registry that is no recipe.",
        "`dpo-recipe push` puts recipes into registries.",
    ),
}
