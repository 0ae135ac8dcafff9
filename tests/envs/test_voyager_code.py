"""Voyager's bot runs a model's code: what code may do, what it may not, and what goes on after."""

from __future__ import annotations

import pytest

from tests.envs.voyager_places import needs_game, playing
from tuft_components.envs.base import Task
from tuft_components.envs.voyager.skills import SkillLibrary
from tuft_components.errors import BadData

pytestmark = [needs_game, pytest.mark.slow]

FIRST = Task("train", 0, 0)
_TREE = "const tree = bot.findBlock({matching: b => b.name.endsWith('_log'), maxDistance: 16});\n"
PLANKS = (
    _TREE + "await mineBlock(bot, tree.name, 1);\n"
    "await craftItem(bot, tree.name.replace('_log', '_planks'), 1);"
)

WRONG = {
    "throws": ("\n\nthrow new Error('boom')", "Your code:3\nboom"),
    "no program": ("await mineBlock(", "Unexpected token"),
    "no such block": ("await mineBlock(bot, 'gold', 1)", "there is no block gold"),
    "not there": ("await mineBlock(bot, 'diamond_ore', 1)", "no diamond_ore nearby"),
    "lacks": ("await craftItem(bot, 'stick', 1)", "to craft stick you need"),
    "busy for ever": ("while (true) {}", "it ran longer than 5 s"),
    "waits for ever": ("while (true) await bot.waitForTicks(1)", "it ran longer than 5 s"),
    "never answers": ("await new Promise(() => {})", "it ran longer than 5 s"),
    "ends": ("process.exit(0)", "it ended the process"),
    "kills": ("process.kill(process.pid, 'SIGKILL')", "it ended the process"),
    "heap": ("const a = []; while (true) a.push(new Array(1000).fill(0))", "your code was stopped"),
    "buffers": ("const a = Buffer.alloc(1e9)", "allocation failed"),
    "leaves": ("bot.quit(); await bot.waitForTicks(20)", "the bot left the game"),
    "no events": ("JSON.stringify = () => undefined", "your code was stopped"),
    "nonsense": ("JSON.stringify = () => '\"[1, 2]\"'", "your code was stopped"),
    "many events": (
        "const say = JSON.stringify; JSON.stringify = x => Array.isArray(x) ? ' '.repeat(1e7) : say(x)",
        "an answer of more than 4 MiB",
    ),
    "later": (
        "setTimeout(() => { throw new Error('late') }, 1)\nawait bot.waitForTicks(9)",
        "late",
    ),
}


@pytest.mark.parametrize("case", WRONG)
async def test_wrong_code_is_told_and_the_episode_goes_on(case: str) -> None:
    code, said = WRONG[case]
    # Where it is not the time-out that is tested, a busy machine must not bring it about.
    seconds = 5 if "longer" in said else 60
    async with playing("planks", step_timeout_s=seconds) as (_, environment):
        await environment.reset(FIRST)
        turn = await environment.step(code)
        assert said in turn.error
        assert said in str(turn.observation)
        assert (turn.reward, turn.done) == (0, False)
        turn = await environment.step(PLANKS)
        assert (turn.reward, turn.done, turn.error) == (1, True, "")


ESCAPES = {
    "programs": "const {execSync} = use('child_process'); return execSync('id').toString()",
    "forks": "const {fork} = use('child_process'); fork('/app/js/bot.js'); return 'forked'",
    "spawns below node": "const {Process} = process.binding('process_wrap');"
    "const p = new Process(); const e = p.spawn({file: '/usr/bin/id', args: ['id']});"
    "if (e !== 0) throw new Error('no: ' + e); return 'spawned'",
    "threads": "const {Worker} = use('worker_threads'); new Worker('', {eval: true}); return 'x'",
    "writes": "const fs = use('fs'); fs.writeFileSync('/app/x', 'x'); return 'written'",
    "fills": "const fs = use('fs'); fs.writeFileSync('/io/x', 'x'); return 'written'",
    "devices": "const fs = use('fs'); fs.writeFileSync('/dev/x', 'x'); return 'written'",
    "home": "const fs = use('fs'); return fs.readdirSync('/root').join()",
    "passwords": "const fs = use('fs'); return fs.readFileSync('/etc/passwd', 'utf8')",
    "processes": "const fs = use('fs'); return fs.readdirSync('/proc').join()",
    "network": "const net = use('net'); return await new Promise((resolve, reject) => {"
    "const s = net.connect(80, '1.1.1.1'); s.on('connect', () => resolve('out')); s.on('error', reject)})",
    "names": "const dns = use('dns/promises'); return (await dns.lookup('example.com')).address",
}


@pytest.mark.parametrize("case", ESCAPES)
async def test_code_can_not_get_out(case: str) -> None:
    # What it got is said as an error with a mark, so that a success can't be taken for a refusal.
    code = "const use = name => process.mainModule.require(name);\n"
    code += f"let got; try {{ got = await (async () => {{{ESCAPES[case]}}})() }} "
    code += "catch (e) { throw new Error('REFUSED ' + e.message) }\nthrow new Error('GOT ' + got)"
    async with playing("planks", step_timeout_s=60) as (_, environment):
        await environment.reset(FIRST)
        turn = await environment.step(code)
        assert "REFUSED" in turn.error, turn.error
        assert "use is" not in turn.error  # it got as far as the wall


async def test_code_could_read_what_is_there() -> None:
    """Else the escapes above might be refused for a wrong reason."""
    async with playing("planks") as (_, environment):
        await environment.reset(FIRST)
        code = "const fs = process.mainModule.require('fs');\n"
        turn = await environment.step(code + "bot.chat(fs.readdirSync('/app/js').join())")
        assert "bridge.js" in str(turn.observation)


CHEATS = {
    "commands": "bot.chat('/give @s oak_planks 64'); bot.chat('/op bot'); bot.chat('/gamemode 1')",
    "creative": "bot._client.write('set_creative_slot', {slot: 36, item: {present: true, itemId: 22,"
    " itemCount: 64}})",
    "clicks": "for (const slot of [0, 1, 36, 37]) bot._client.write('window_click', {windowId: 0,"
    " stateId: 1, slot, mouseButton: 0, mode: 0, changedSlots: [], cursorItem: {present: true,"
    " itemId: 22, itemCount: 64}})",
    "own inventory": "bot.inventory.items = () => [{name: 'jungle_planks', count: 64}]",
    "far away": "bot._client.write('block_dig', {status: 2, location: new Vec3(14, 4, 14), face: 1,"
    " sequence: 0})",
    "bedrock": "bot._client.write('block_dig', {status: 2, location: new Vec3(0, 0, 0), face: 1,"
    " sequence: 0})",
    "events": "bot.emit = () => {}; bot.save('jungle_planks_crafted')",
    "two bots": "const use = name => process.mainModule.require(name);"
    "const two = use('mineflayer').createBot({username: 'two', version: '1.19', auth: 'offline',"
    " connect: c => c.setSocket(use('net').connect('/io/game.sock'))});"
    "two.on('error', () => {});"
    "if (await new Promise(r => { two.once('end', () => r(false)); two.once('spawn', () => r(true)) }))"
    " while (true) {}",
    "other requests": 'for (const data of [\'{\', \'{"ask": "reset"}\', \'{"ask": "craft", "name":'
    " \"x\"}']) bot._client.write('custom_payload', {channel: 'tuft:ask', data: Buffer.from(data)})",
}


@pytest.mark.parametrize("case", CHEATS)
async def test_the_referee_is_not_the_bot(case: str) -> None:
    async with playing("planks", step_timeout_s=60) as (_, environment):
        await environment.reset(FIRST)
        turn = await environment.step(CHEATS[case] + ";\nawait bot.waitForTicks(10)")
        assert (turn.reward, turn.done) == (0, False)
        assert turn.info["inventory"] == {}
        assert "was stopped" not in turn.error


async def test_what_code_left_behind_is_gone_in_the_next_episode() -> None:
    async with playing("planks") as (_, environment):
        await environment.reset(FIRST)
        await environment.step("globalThis.left = 1; setInterval(() => bot.chat('still here'), 10)")
        await environment.reset(FIRST)
        turn = await environment.step("throw new Error(typeof left)")
        assert "undefined" in turn.error
        assert "still here" not in str(turn.observation)


async def test_a_bot_that_was_stopped_keeps_what_it_had() -> None:
    async with playing("planks", step_timeout_s=10) as (_, environment):
        await environment.reset(FIRST)
        turn = await environment.step(_TREE + "await mineBlock(bot, tree.name, 2)")
        assert turn.reward == 0.5
        turn = await environment.step("while (true) {}")
        assert (turn.reward, turn.info["inventory"]) == (0, {"jungle_log": 2})
        turn = await environment.step("bot.chat(bot.inventory.items().map(i => i.count).join())")
        assert "<bot> 2" in str(turn.observation)


async def test_code_is_taken_from_a_fence() -> None:
    async with playing("planks", shaped=False) as (_, environment):
        first = await environment.reset(FIRST)
        assert "Task: get 4" in str(first.observation)
        assert first.actions == ()
        empty = await environment.step("\n")
        assert empty.error.startswith("not an action")
        turn = await environment.step(
            f"I mine first:\n```javascript\n{_TREE}await mineBlock(bot, tree.name)\n```"
        )
        assert (turn.reward, turn.done) == (0, False)
        turn = await environment.step(f"```js\n{PLANKS}\n```\nThat is all.")
        assert (turn.reward, turn.done) == (1, True)


async def test_a_skill_gets_in_by_proof_and_is_there_to_be_called(tmp_path: object) -> None:
    uri = f"{tmp_path}/skills.json"
    library = SkillLibrary()
    async with playing("planks") as (_, environment):
        assert not await library.learn(environment, "lazy", "return 1", "makes planks", [1])
        assert await library.learn(
            environment, "makePlanks", PLANKS, "makes planks of wood", [1, 2]
        )
        with pytest.raises(BadData, match="can't be a skill"):
            await library.learn(environment, "no name", PLANKS, "", [1])
    assert "lazy" not in library
    library.save(uri)
    async with playing("planks", skills=uri) as (_, environment):
        first = await environment.reset(FIRST)
        assert "Skill makePlanks(bot): makes planks of wood" in str(first.observation)
        turn = await environment.step("await makePlanks(bot)")
        assert (turn.reward, turn.done) == (1, True)
        wrong = await environment.step("throw new Error('x')")
        assert "Your code:1\nx" in wrong.error
