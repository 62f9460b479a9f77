"""Chat templates in the shapes of well-known models, written for tests over the tokens of the tiny tokenizers.

`THINKING` has the shape of Qwen3's: functions behind the system text, thinking from `reasoning_content` or out of the
content, dropped before the last question, tool results inside of a user's turn. `FUNCTIONS_FIRST` has the shape of
Llama 3.1's: a system turn always, functions in the first question, content trimmed, one call per turn, tool results
in a role of their own. `FLAT` sees functions without their wrapper only, as Mistral's do. `MERGING` has alternate roles
only: what was said in one role in a row is one turn, results are the user's, and all system turns stand in front.
`OTHER_HEADER` begins the answer otherwise than it stands in the history. `RECENT` forgets all but the system text and
the last four turns.
"""

THINKING = """
{%- if tools -%}
    {{- '<|im_start|>system\\n' -}}
    {%- if messages[0].role == 'system' -%}{{- messages[0].content + '\\n\\n' -}}{%- endif -%}
    {{- 'Call functions:\\n<tools>' -}}
    {%- for tool in tools -%}{{- '\\n' + tool | tojson -}}{%- endfor -%}
    {{- '\\n</tools><|im_end|>\\n' -}}
{%- elif messages[0].role == 'system' -%}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' -}}
{%- endif -%}
{%- set found = namespace(last=-1) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{%- set found.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
    {%- set content = message.content if message.content is string else '' -%}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) -%}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' -}}
    {%- elif message.role == 'assistant' -%}
        {%- set thought = '' -%}
        {%- if message.reasoning_content is string -%}
            {%- set thought = message.reasoning_content -%}
        {%- elif '</think>' in content -%}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') -%}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
        {%- endif -%}
        {{- '<|im_start|>assistant\\n' -}}
        {%- if loop.index0 > found.last and (loop.last or thought) -%}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') -}}
        {%- else -%}
            {{- content -}}
        {%- endif -%}
        {%- if message.tool_calls -%}
            {%- for call in message.tool_calls -%}
                {%- if (loop.first and content) or not loop.first -%}{{- '\\n' -}}{%- endif -%}
                {%- set call = call.function if call.function else call -%}
                {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' -}}
                {{- call.arguments if call.arguments is string else call.arguments | tojson -}}
                {{- '}\\n</tool_call>' -}}
            {%- endfor -%}
        {%- endif -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif message.role == 'tool' -%}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' -}}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
    {%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}
{%- endif -%}
"""

FUNCTIONS_FIRST = """
{%- if not tools is defined -%}{%- set tools = none -%}{%- endif -%}
{%- set system = '' -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] | trim -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{{- '<|im_start|>system\\n' -}}
{%- if tools is not none -%}{{- 'Environment: ipython\\n' -}}{%- endif -%}
{{- 'Knowledge: none\\n\\n' + system + '<|im_end|>\\n' -}}
{%- if tools is not none -%}
    {%- if messages | length == 0 -%}{{- raise_exception('functions stand in the first question: there is none') -}}
    {%- endif -%}
    {{- '<|im_start|>user\\nAnswer with a call of one of these functions.\\n\\n' -}}
    {%- for tool in tools -%}{{- tool | tojson(indent=4) -}}{{- '\\n\\n' -}}{%- endfor -%}
    {{- messages[0]['content'] | trim + '<|im_end|>\\n' -}}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- for message in messages -%}
    {%- if not (message.role == 'tool' or message.role == 'ipython' or 'tool_calls' in message) -%}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' -}}
    {%- elif 'tool_calls' in message -%}
        {%- if message.tool_calls | length != 1 -%}{{- raise_exception('one call at a time, please') -}}{%- endif -%}
        {%- set call = message.tool_calls[0].function -%}
        {{- '<|im_start|>assistant\\n{"name": "' + call.name + '", "parameters": ' -}}
        {{- call.arguments | tojson -}}
        {{- '}<|im_end|>\\n' -}}
    {%- else -%}
        {{- '<|im_start|>ipython\\n' -}}
        {%- if message.content is mapping or message.content is iterable -%}
            {{- message.content | tojson -}}
        {%- else -%}
            {{- message.content -}}
        {%- endif -%}
        {{- '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

FLAT = """
{%- for tool in tools or [] -%}
    {%- if tool.function is defined -%}{{- raise_exception('functions without a wrapper, please') -}}{%- endif -%}
    {{- '<|im_start|>tool\\n' + tool | tojson + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' + message.content -}}
    {%- for call in message.tool_calls or [] -%}
        {{- {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson -}}
    {%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

MERGING = """
{%- set system = namespace(text='') -%}
{%- for message in messages if message.role == 'system' -%}
    {%- set system.text = system.text + message.content + '\\n' -%}
{%- endfor -%}
{%- for tool in tools or [] -%}{%- set system.text = system.text + tool | tojson + '\\n' -%}{%- endfor -%}
{{- '<|im_start|>system\\n' + system.text -}}
{%- set before = namespace(role='system') -%}
{%- for message in messages if message.role != 'system' -%}
    {%- set role = 'user' if message.role == 'tool' else message.role -%}
    {{- '\\n\\n' if role == before.role else '<|im_end|>\\n<|im_start|>' + role + '\\n' -}}
    {{- message.content if message.content is string else '' -}}
    {%- for call in message.tool_calls or [] -%}{{- call.function | tojson -}}{%- endfor -%}
    {%- set before.role = role -%}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

_TURN = """
    {{- '<|im_start|>' + message.role + '\\n' + (message.content if message.content is string else '') -}}
    {%- for call in message.tool_calls or [] -%}{{- call.function | tojson -}}{%- endfor -%}
    {{- '<|im_end|>\\n' -}}
"""

OTHER_HEADER = f"""
{{%- for tool in tools or [] -%}}{{{{- tool | tojson -}}}}{{%- endfor -%}}
{{%- for message in messages -%}}{_TURN}{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- '<|im_start|>assistant to all\\n' -}}}}{{%- endif -%}}
"""

RECENT = f"""
{{%- for message in messages if message.role == 'system' -%}}{_TURN}{{%- endfor -%}}
{{%- for message in (messages | rejectattr('role', 'equalto', 'system') | list)[-4:] -%}}{_TURN}{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- '<|im_start|>assistant\\n' -}}}}{{%- endif -%}}
"""
