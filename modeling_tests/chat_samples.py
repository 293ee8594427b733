"""Chats for the tests of the collator."""

# The same words with and without tags, in three ways of tagging.
UNTAGGED = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{{ message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURN = "{{ message.content + '<|im_end|>' + '\n' }}"
TAGGED = {
    "with the stop token": "{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}",
    "without the stop token": "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}{{ '<|im_end|>\n' }}",
}
TAGGED = {name: UNTAGGED.replace(TURN, tags + "{% else %}" + TURN + "{% endif %}") for name, tags in TAGGED.items()}


def chat(*turns: str | list, system: str | None = None) -> list[dict]:
    """User and assistant in turns."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return messages if system is None else [{"role": "system", "content": system}, *messages]
