"""What the examples share: a model, data of an invented town, search, SQL, a code runner, a command line. Not part of tracedflow.

An example is one module with `QUESTION` (what it is asked by default), `play(stage)` (what it does) and `main(argv)`, which is
`run_example(play, __doc__, QUESTION, argv)`. Its steps call the model with a `prompt_name` of the form `"<example>.<prompt>"`;
offline, the answer comes from `RULES["<prompt>"]` in `_kit/scripts/<example>.py`, a function of the messages alone.

model.py
    `Model`                                     the protocol; every call takes `prompt_name=`, and opens a GenAI span
      `await complete(prompt)`                  str; a prompt is a str or a list of messages
      `async for piece in stream(prompt)`       str pieces, as they arrive
      `await structured(Schema, prompt)`        an instance of a pydantic class, after one repair at most; `StructuredOutputError`
      `await chat(messages, tools, on_text=)`   `Message`, with `.content` and `.tool_calls`; `on_text(piece)` is told each piece
      a step that is a plain function calls     `asyncio.run(model.complete(prompt, prompt_name=...))`: it has a thread of its own
      `await embed(texts)`                      a list of vectors, one for each text
    `ModelRefusedError`                         wrong key, no such model, no such protocol: no attempt mends that (`.status`)
    `ModelUnavailableError`                     busy, not reached, broke off: what a retry policy waits for (`.status`, `.retry_after`)
    `Message(role, content)`, `ToolCall(id, name, arguments)`   pydantic; arguments is JSON text, as on the wire
    `system(text)`, `user(text)`, `assistant(text)`, `tool_result(call, text)`   the four kinds of message
    `choose_model(environment)`                 the real one if TRACEDFLOW_LLM_BASE_URL, _API_KEY, _MODEL are set, else scripted
    `ScriptedModel(rules=None)`, `OpenAICompatModel(base_url, api_key, model)`   the two backends
cli.py
    `run_example(play, __doc__, QUESTION, argv, flags=, needs_model=)`   flags, progress, result, trace id; returns the exit status
    `Stage`                                     what `play` gets: `.model`, `.data` (Path), `.question`, `.arguments`
      `await stage.run(workflow, **start)`      run it, with progress on stderr; give `answer=` for questions to a person
      `await stage.follow(handler)`             the same for a run that was started elsewhere
    `output_file`, `some_text`                  the `type=` of a flag: a file to be written; a text that is not empty
    `NotFoundError`, `WrongInputError`          raise them for "no answer in the data": exit status 3; "cannot be used": 2
corpus/ (`stage.data`)
    handbook/*.md, web/*.md, letters/*.md, budgets/YEAR.md (2020 is missing), tables/*.csv, tables.sql, crew.json, register.txt, story.json
retrieve.py
    `Chunk(id, source, title, text)`            frozen dataclass; `.as_dict()`, `Chunk(**d)`; `id` is as "harbour.md#2"
    `read_folder(path)`, `split_text(text, size=, overlap=)`   chunks of Markdown files by section; pieces of words by sentence
    `WordIndex(chunks)`, `VectorIndex(chunks)`, `HybridIndex(chunks)`   `.search(query, top=) -> list[Hit(chunk, score)]`
    `HybridIndex.save(path)`, `.load(path)`     one SQLite file
    `hash_vector(text)`, `cosine(a, b)`         512 signed hashed features, pure Python
search.py   `LocalSearch(folder)`, `await .search(query, top=) -> list[Page(title, url, text)]`; `.queries` is what was asked
    `choose_search(folder)`                     the SearXNG server of TRACEDFLOW_SEARCH_URL if that is set, else the folder
    `SearchUnavailableError`                    it is away, or refuses: what a retry policy waits for; an `OSError`
sql.py      `load_tables(path, data)`, `load_records(path, table, records)` make an SQLite file
            `Database(path)`: `.tables`, `.schema(*tables)`, `.sample(table)`, `.query(sql) -> Rows(columns, rows)`; `SqlError`
            `statement_in(answer)`              what a model wrote, out of its fence; `sql_reading.py` has `select_for(prompt)`, for rules
sandbox.py  `Sandbox()`: `await .run(code) -> Ran(output, value, error)`, `await .close()`; state is kept between snippets; `.fresh`
tools.py    `Tool(function)`: `.name`, `.description`, `.schema`, `.spec`, `await .call(json_text)`; `ToolError`; `tool_named`
            `handbook_tools(data)`: `add`, `multiply`, `lookup`; `budget_tools(data)`: a search for each year
reading.py  for rules only: `tagged`, `all_tagged`, `sentences`, `content_words`, `best_sentence`, `overlap`, `numbers`, `facts_asked`
scripted_server.py   `ScriptedServer(faults=[...])`: the same rules behind a loopback OpenAI-style server; `with ... as server: server.url`
terminal.py `at_a_terminal()`, `await typed(question)`; what makes Ctrl-C and closed pipes end an example quietly
screen.py   `heading`, `show_waterfall`

A new example needs three more files: its rules in `_kit/scripts/<name>.py`, what it is asked and how the answer is known in
`tests/examples/cases/<name>.py` (rules for all examples are in `tests/examples/test_every_example.py`), and what holds for it
alone in `tests/examples/test_<name>.py`. `examples/rag.py` and its three are the pattern. `python -m examples --gallery` puts its
graph into docs/examples.md.
"""
