"""The notifier: nothing lost between the look and the wait, bursts wake once, stopping wakes all."""

import asyncio
import threading

from coordinator.notifier import Notifier


def test_a_change_between_the_look_and_the_wait_is_not_lost() -> None:
    notifier = Notifier()
    generation = notifier.generation
    notifier.changed()
    assert asyncio.run(notifier.wait(generation, 60)) == generation + 1


def test_a_change_from_another_thread_wakes_all_and_no_thread_waits() -> None:
    notifier = Notifier()

    async def scenario() -> list[int]:
        waiting = [asyncio.create_task(notifier.wait(notifier.generation, 60)) for _ in range(200)]
        await asyncio.sleep(0)
        assert notifier.num_waiting == 200
        assert threading.active_count() < 20
        thread = threading.Thread(target=notifier.changed)
        thread.start()
        found = await asyncio.gather(*waiting)
        thread.join()
        return found

    assert asyncio.run(scenario()) == [1] * 200
    assert notifier.num_waiting == 0


def test_a_burst_of_changes_wakes_once() -> None:
    notifier = Notifier()

    async def scenario() -> int:
        waiting = asyncio.create_task(notifier.wait(0, 60))
        await asyncio.sleep(0)
        for _ in range(50):
            notifier.changed()
        return await waiting

    assert asyncio.run(scenario()) == 50


def test_whoever_has_seen_a_change_is_not_woken_for_it() -> None:
    notifier = Notifier()

    async def scenario() -> int:
        before = asyncio.create_task(notifier.wait(0, 60))
        await asyncio.sleep(0)
        notifier.changed()  # the wake is planned, a moment later
        after = asyncio.create_task(notifier.wait(notifier.generation, 60))
        assert await before == 1
        await asyncio.sleep(0)
        assert not after.done()
        notifier.changed()
        return await after

    assert asyncio.run(scenario()) == 2


def test_a_wait_ends_with_its_time_and_leaves_nothing_behind() -> None:
    notifier = Notifier()
    assert asyncio.run(notifier.wait(0, 0.01)) == 0
    assert asyncio.run(notifier.wait(0, 0)) == 0
    assert notifier.num_waiting == 0


def test_a_poll_that_is_given_up_leaves_nothing_behind() -> None:
    notifier = Notifier()

    async def scenario() -> None:
        waiting = asyncio.create_task(notifier.wait(0, 60))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(scenario())
    assert notifier.num_waiting == 0


def test_closing_lets_everybody_go_now_and_later() -> None:
    notifier = Notifier()

    async def scenario() -> int:
        waiting = asyncio.create_task(notifier.wait(0, 60))
        await asyncio.sleep(0)
        notifier.close()
        await waiting
        return await notifier.wait(0, 60)

    assert asyncio.run(scenario()) == 0
    assert notifier.closed


def test_changes_before_anybody_waits_and_after_the_loop_is_gone_are_harmless() -> None:
    notifier = Notifier()
    notifier.changed()
    asyncio.run(notifier.wait(0, 1))
    notifier.changed()
    notifier.close()
    assert notifier.generation == 2
