"""Training templates about money, time, ages, distances, pages and points."""

from __future__ import annotations

from problems.drafts import (
    ANIMALS,
    BAKED,
    CHILD,
    DAY,
    DEAR,
    FRIEND,
    HOUR,
    KILOGRAM,
    KILOMETRE,
    METRE,
    MINUTE,
    PAGE,
    PART,
    POINT,
    SHOP,
    SKILLS,
    TIMES,
    WEEK,
    YEAR,
    Draft,
)


def two_prices(d: Draft) -> str:
    first, second = d.pick(SHOP[:4]), d.pick(SHOP[4:])
    p, q, a, b = d.number(2, 5), d.number(6, 12), d.number(2, 5), d.number(2, 5)
    x = d.step(f"The {first.many} cost ${{}}.", a, "*", p)
    y = d.step(f"The {second.many} cost ${{}}.", b, "*", q)
    d.step(f"{d.who} spends ${{}}.", x, "+", y)
    return (
        f"A {first.one} costs ${p} and a {second.one} costs ${q}. {d.who} buys {first.of(a)} and {second.of(b)}. "
        f"How many dollars does {d.who} spend?"
    )


def change(d: Draft) -> str:
    item, n, price, rest = d.pick(SHOP), d.number(2, 6), d.number(2, 9), d.number(1, 20)
    cost = d.step(f"The {item.many} cost ${{}}.", n, "*", price)
    d.step(f"{d.who} has ${{}} left.", cost + rest, "-", cost)
    return (
        f"{d.who} has ${cost + rest} and buys {item.of(n)} for ${price} each. How many dollars does {d.who} have left?"
    )


def saving(d: Draft) -> str:
    weeks, rate = d.number(3, 10), d.number(2, 9)
    spent = d.number(1, weeks * rate)
    saved = d.step(f"{d.who} saves ${{}}.", weeks, "*", rate)
    d.step(f"{d.who} has ${{}} left.", saved, "-", spent)
    return (
        f"{d.who} saves ${rate} a week for {WEEK.of(weeks)} and then spends ${spent}. "
        f"How many dollars does {d.who} have left?"
    )


def pages(d: Draft) -> str:
    a, days, left = d.number(5, 15), d.number(2, 8), d.number(5, 40)
    read = d.step(f"{d.who} reads {{}}.", a, "*", days, PAGE)
    d.step(f"{d.who} still has to read {{}}.", read + left, "-", read, PAGE)
    return (
        f"A book has {read + left} pages. {d.who} reads {a} pages a day for {DAY.of(days)}. "
        "How many pages are still to be read?"
    )


def wages(d: Draft) -> str:
    pay, a, b = d.number(6, 15), d.number(2, 8), d.number(2, 8)
    hours = d.step(f"{d.who} works {{}}.", a, "+", b, HOUR)
    d.step(f"{d.who} earns ${{}}.", hours, "*", pay)
    return (
        f"{d.who} earns ${pay} an hour. {d.who} works {HOUR.of(a)} on Monday and {HOUR.of(b)} on Tuesday. "
        f"How many dollars does {d.who} earn on both days?"
    )


def practice(d: Draft) -> str:
    a, days, b, skill = d.number(5, 20), d.number(2, 6), d.number(10, 40), d.word(SKILLS)
    weekdays = d.step(f"On the weekdays {d.who} spends {{}}.", a, "*", days, MINUTE)
    d.step(f"In all {d.who} spends {{}}.", weekdays, "+", b, MINUTE)
    return (
        f"{d.who} practises {skill} for {a} minutes on each of {days} weekdays and for {b} minutes on Sunday. "
        f"For how many minutes does {d.who} practise in all?"
    )


def family(d: Draft) -> str:
    full, reduced, adults, children = d.number(8, 15), d.number(3, 7), d.number(2, 4), d.number(2, 5)
    x = d.step("The adults pay ${}.", adults, "*", full)
    y = d.step("The children pay ${}.", children, "*", reduced)
    d.step("The family pays ${}.", x, "+", y)
    return (
        f"At the zoo an adult pays ${full} and a child pays ${reduced}. A family of {adults} adults and "
        f"{CHILD.of(children)} goes to the zoo. How many dollars does the family pay?"
    )


def bill(d: Draft) -> str:
    friends, each = d.number(2, 6), d.number(5, 12)
    drinks = d.number(3, friends * each // 2)
    food = friends * each - drinks
    bill = d.step("The bill is ${}.", food, "+", drinks)
    d.step("Each friend pays ${}.", bill, "/", friends)
    return (
        f"{FRIEND.of(friends)} share a bill equally. The food costs ${food} and the drinks cost ${drinks}. "
        "How many dollars does each friend pay?"
    )


def to_school(d: Draft) -> str:
    far, days = d.number(2, 9), d.number(2, 9)
    daily = d.step(f"{d.who} rides {{}} a day.", far, "*", 2, KILOMETRE)
    d.step(f"In that time {d.who} rides {{}}.", daily, "*", days, KILOMETRE)
    return (
        f"The school is {far} kilometres from home. {d.who} rides a bicycle there and back once a day. "
        f"How many kilometres does {d.who} ride in {DAY.of(days)}?"
    )


def ages(d: Draft) -> str:
    age, older, years = d.number(4, 20), d.number(2, 12), d.number(2, 10)
    now = d.step(f"{d.other} is {{}} old now.", age, "+", older, YEAR)
    d.step(f"{d.other} will be {{}} old.", now, "+", years, YEAR)
    return (
        f"{d.who} is {age} years old. {d.other} is {older} years older than {d.who}. "
        f"How old will {d.other} be in {YEAR.of(years)}?"
    )


def rounds(d: Draft) -> str:
    a, more = d.number(5, 30), d.number(2, 15)
    second = d.step(f"In the second round {d.who} scores {{}}.", a, "+", more, POINT)
    d.step(f"In both rounds {d.who} scores {{}}.", a, "+", second, POINT)
    return (
        f"In a game {d.who} scores {a} points in the first round and {more} points more in the second round. "
        f"How many points does {d.who} score in both rounds?"
    )


def unit_price(d: Draft) -> str:
    item, n, m, price = d.pick(SHOP), d.number(2, 6), d.number(2, 12), d.number(2, 9)
    m += m == n
    one = d.step(f"One {item.one} costs ${{}}.", n * price, "/", n)
    d.step(f"The {item.many} cost ${{}}.", one, "*", m)
    return d.word(
        (
            f"{n} {item.many} cost ${n * price}. How many dollars do {m} {item.many} cost?",
            f"{d.who} pays ${n * price} for {n} {item.many}. How many dollars would {m} {item.many} cost?",
            f"A shop sells {n} {item.many} for ${n * price}. {d.who} needs {m}. How many dollars does {d.who} pay?",
        )
    )


def discount(d: Draft) -> str:
    item = d.pick(DEAR)
    percent, price = d.percent_of_whole(120)
    off = d.percent("The discount is ${}.", price, percent)
    d.step(f"{d.who} pays ${{}}.", price, "-", off)
    return d.word(
        (
            f"A {item.one} costs ${price}. {d.who} gets a discount of {percent}%. How many dollars does {d.who} pay?",
            f"{d.who} buys a {item.one} at {percent}% off. It used to cost ${price}. "
            f"How many dollars does {d.who} pay?",
            f"The price of a {item.one} is ${price}, less {percent}% for members. {d.who} is a member. "
            f"How many dollars does {d.who} pay?",
        )
    )


def tip_percent(d: Draft) -> str:
    percent, price = d.percent_of_whole(100, highest=30)
    more = d.percent("The extra part is ${}.", price, percent)
    d.step(f"{d.who} pays ${{}}.", price, "+", more)
    return d.word(
        (
            f"A meal costs ${price}. {d.who} adds {percent}% for the waiter. How many dollars does {d.who} pay in all?",
            f"{d.who} orders a bed for ${price}. Delivery adds {percent}% to the price. "
            f"How many dollars does {d.who} pay in all?",
        )
    )


def many_discounted(d: Draft) -> str:
    item, n = d.pick(SHOP), d.number(2, 6)
    percent, price = d.percent_of_whole(20)
    full = d.step(f"The {item.many} would cost ${{}}.", n, "*", price)
    off = d.percent("The discount is ${}.", full, percent)
    d.step(f"{d.who} pays ${{}}.", full, "-", off)
    return (
        f"{d.who} buys {n} {item.many} at ${price} each and gets {percent}% off "
        f"{d.word(('the total', 'everything'))}. How many dollars does {d.who} pay?"
    )


def profit(d: Draft) -> str:
    item, n, cost, gain = d.pick(SHOP), d.number(3, 12), d.number(2, 12), d.number(1, 9)
    margin = d.step(f"{d.who} gains ${{}} on each.", cost + gain, "-", cost)
    d.step("The profit is ${}.", margin, "*", n)
    return d.word(
        (
            f"{d.who} buys {n} {item.many} for ${cost} each and sells them for ${cost + gain} each. "
            f"How many dollars of profit does {d.who} make?",
            f"Each {item.one} costs {d.who} ${cost} and is sold for ${cost + gain}. "
            f"How many dollars does {d.who} gain on {n} {item.many}?",
        )
    )


def half_spent(d: Draft) -> str:
    rate, weeks = 2 * d.number(2, 10), d.number(2, 9)
    spent = d.step(f"{d.who} spends ${{}} a week.", rate, "/", 2)
    kept = d.step(f"{d.who} keeps ${{}} a week.", rate, "-", spent)
    d.step(f"{d.who} saves ${{}}.", kept, "*", weeks)
    return (
        f"{d.who} gets ${rate} {d.word(('a week', 'each week', 'every Friday'))}, spends half of it and saves the "
        f"rest. How many dollars does {d.who} save in {weeks} weeks?"
    )


def coupon(d: Draft) -> str:
    first, second, off = d.pick(SHOP), d.pick(DEAR), d.number(1, 5)
    a, b, rest = d.number(3, 12), d.number(15, 60), d.number(1, 20)
    both = d.step("Both cost ${}.", a, "+", b)
    due = d.step(f"With the coupon {d.who} pays ${{}}.", both, "-", off)
    d.step(f"{d.who} has ${{}} left.", due + rest, "-", due)
    return (
        f"{d.who} has ${due + rest}, buys a {first.one} for ${a} and a {second.one} for ${b}, and uses a coupon for "
        f"${off} off. How many dollars does {d.who} have {d.word(('left', 'after that'))}?"
    )


def pay_raise(d: Draft) -> str:
    pay, more, hours = d.number(8, 20), d.number(1, 6), d.number(4, 12)
    rate = d.step(f"Now {d.who} earns ${{}} an hour.", pay, "+", more)
    d.step(f"{d.who} earns ${{}}.", rate, "*", hours)
    told = d.word(
        (
            f"{d.who} earned ${pay} an hour and now gets ${more} an hour more.",
            f"{d.other} earns ${pay} an hour. {d.who} earns ${more} an hour more than {d.other}.",
        )
    )
    return f"{told} How many dollars does {d.who} earn in {hours} hours?"


def overtime(d: Draft) -> str:
    pay, extra, normal, more = d.number(8, 15), d.number(2, 6), d.number(5, 10), d.number(2, 5)
    usual = d.step("The usual hours bring ${}.", normal, "*", pay)
    rate = d.step("An extra hour brings ${}.", pay, "+", extra)
    late = d.step("The extra hours bring ${}.", more, "*", rate)
    d.step(f"{d.who} earns ${{}}.", usual, "+", late)
    return (
        f"{d.who} earns ${pay} an hour, and ${extra} more for each extra hour. {d.who} works {normal} usual hours and "
        f"{more} extra hours. How many dollars does {d.who} earn?"
    )


def journey(d: Draft) -> str:
    fast, slow, a, b = 10 * d.number(4, 9), 10 * d.number(1, 3), d.number(2, 5), d.number(2, 5)
    first = d.step(f"At first {d.who} covers {{}}.", fast, "*", a, KILOMETRE)
    second = d.step(f"Then {d.who} covers {{}}.", slow, "*", b, KILOMETRE)
    d.step(f"In all {d.who} covers {{}}.", first, "+", second, KILOMETRE)
    return (
        f"{d.who} drives for {a} hours at {fast} kilometres an hour and then for {b} hours at {slow} kilometres an "
        f"hour. How many kilometres does {d.who} {d.word(('drive in all', 'cover', 'drive altogether'))}?"
    )


def how_long(d: Draft) -> str:
    speed, hours, rest = d.number(3, 12), d.number(2, 8), d.number(1, 4)
    moving = d.step(f"{d.who} rides for {{}}.", speed * hours, "/", speed, HOUR)
    d.step("With the rest that is {}.", moving, "+", rest, HOUR)
    return (
        f"{d.who} rides {speed * hours} kilometres at {speed} kilometres an hour and rests for {HOUR.of(rest)} on the "
        f"way. How many hours does the {d.word(('trip', 'tour', 'ride'))} take?"
    )


def hike(d: Draft) -> str:
    first, k, left = d.number(4, 15), d.number(2, 3), d.number(3, 30)
    second = d.step(f"On the second day {d.who} walks {{}}.", first, "*", k, KILOMETRE)
    done = d.step(f"In two days {d.who} walks {{}}.", first, "+", second, KILOMETRE)
    d.step("{} are left.", done + left, "-", done, KILOMETRE)
    return (
        f"A {d.word(('path', 'route'))} is {done + left} kilometres long. {d.who} walks {first} kilometres on the "
        f"first day and {TIMES[k]} as far on the second day. How many kilometres are left?"
    )


def weeks_of_reading(d: Draft) -> str:
    a, weeks = d.number(2, 9), d.number(2, 6)
    weekly = d.step(f"{d.who} reads {{}} a week.", a, "*", 7, PAGE)
    d.step(f"{d.who} needs {{}}.", weekly * weeks, "/", weekly, WEEK)
    return (
        f"{d.who} reads {a} pages {d.word(('a day', 'every day', 'each evening'))}. "
        f"How many weeks does {d.who} need for a book of {weekly * weeks} pages?"
    )


def part_read(d: Draft) -> str:
    k, unit = d.number(2, 5), d.number(6, 30)
    more = d.number(2, unit * (k - 1) - 2)
    first = d.step(f"On Saturday {d.who} reads {{}}.", k * unit, "/", k, PAGE)
    both = d.step(f"On both days {d.who} reads {{}}.", first, "+", more, PAGE)
    d.step("{} are left.", k * unit, "-", both, PAGE)
    return (
        f"{d.who} reads {PART[k]} of a book of {k * unit} pages on Saturday and {more} pages on Sunday. "
        f"How many pages {d.word(('are left', 'has the rest of the book'))}?"
    )


def younger(d: Draft) -> str:
    k, age = d.number(2, 5), d.number(3, 10)
    less = d.number(1, k * age - 1)
    old = d.step(f"{d.other} is {{}} old.", age, "*", k, YEAR)
    third = d.step(f"{d.third} is {{}} old.", old, "-", less, YEAR)
    asked = d.word((f"How old is {d.third}?", "How old are the three together?"))
    if asked.startswith("How old are"):
        d.total("Together they are {} old.", age, old, third, noun=YEAR)
    return (
        f"{d.who} is {age} years old. {d.other} is {TIMES[k]} as old as {d.who}, and {d.third} is {YEAR.of(less)} "
        f"younger than {d.other}. {asked}"
    )


def half_age(d: Draft) -> str:
    half, years = d.number(3, 15), d.number(2, 10)
    now = d.step(f"{d.other} is {{}} old.", 2 * half, "/", 2, YEAR)
    d.step(f"{d.other} will be {{}} old.", now, "+", years, YEAR)
    return (
        f"{d.who} is {2 * half} years old. {d.other} is half as old as {d.who}. "
        f"How old will {d.other} be {d.word((f'in {years} years', f'{years} years from now'))}?"
    )


def hours_in_all(d: Draft) -> str:
    per, unit = ((10, 6), (12, 5), (15, 4), (20, 3), (30, 2), (40, 3))[d.number(0, 5)]
    days = unit * d.number(1, 4)
    total = d.step("That is {}.", per, "*", days, MINUTE)
    d.step("That is {}.", total, "/", 60, HOUR)
    does = d.word(("runs", "draws", "sings", "swims", "sweeps the yard"))
    return f"{d.who} {does} for {per} minutes a day. How many hours is that in {days} days?"


def laps(d: Draft) -> str:
    lap, laps, days = 50 * d.number(1, 8), d.number(2, 8), d.number(2, 6)
    daily = d.step(f"{d.who} runs {{}} a day.", lap, "*", laps, METRE)
    d.step(f"In all {d.who} runs {{}}.", daily, "*", days, METRE)
    return (
        f"Once around the park is {lap} metres. {d.who} runs around it {laps} times "
        f"{d.word(('a day', 'each day', 'every morning'))}. How many metres does {d.who} run in {days} days?"
    )


def present(d: Draft) -> str:
    friends, each, first = d.number(2, 6), d.number(3, 12), d.number(4, 20)
    item = d.pick(DEAR)
    rest = d.step("The others pay ${}.", friends * each + first, "-", first)
    d.step("Each of them pays ${}.", rest, "/", friends)
    return (
        f"{d.who} and {friends} friends buy a {item.one} for ${friends * each + first}. {d.who} pays ${first}, and the "
        f"{friends} friends share the rest equally. How many dollars does each friend pay?"
    )


def goal(d: Draft) -> str:
    owned, rate, times, item = d.number(3, 30), d.number(3, 9), d.number(2, 9), d.pick(DEAR)
    job = d.word(("hour", "car", "lawn", "dog"))
    jobs = {"hour": "hours of work", "car": "washed cars", "lawn": "mown lawns", "dog": "walks with a dog"}[job]
    missing = d.step(f"{d.who} still needs ${{}}.", owned + rate * times, "-", owned)
    d.step(f"{d.who} needs {{}} {jobs}.", missing, "/", rate)
    return (
        f"{d.who} wants a {item.one} for ${owned + rate * times} and has ${owned}. {d.who} gets ${rate} for each "
        f"{job}. How many {jobs} bring the rest of the money?"
    )


def feeding(d: Draft) -> str:
    animals, each, days = d.number(2, 6), d.number(1, 4), d.number(3, 12)
    animal = d.pick(ANIMALS)
    daily = d.step(f"The {animal.many} eat {{}} a day.", animals, "*", each, KILOGRAM)
    d.step("The food lasts for {}.", daily * days, "/", daily, DAY)
    return (
        f"{d.who} has {animals} {animal.many}. Each eats {KILOGRAM.of(each)} of food a day. "
        f"For how many days do {daily * days} kilograms {d.word(('last', 'suffice'))}?"
    )


def baskets(d: Draft) -> str:
    twos, threes, free = d.number(2, 10), d.number(2, 6), d.number(1, 6)
    x = d.step("The first kind brings {}.", twos, "*", 2, POINT)
    y = d.step("The second kind brings {}.", threes, "*", 3, POINT)
    d.total(f"{d.who} scores {{}}.", x, y, free, noun=POINT)
    return (
        f"In a match {d.who} makes {twos} throws of 2 points, {threes} throws of 3 points and {free} of 1 point. "
        f"How many points does {d.who} {d.word(('score', 'make in all'))}?"
    )


def cartons(d: Draft) -> str:
    size, cartons, price = d.number(4, 12), d.number(3, 9), d.number(2, 6)
    n = d.step(f"{d.who} fills {{}} cartons.", size * cartons, "/", size)
    d.step(f"{d.who} gets ${{}}.", n, "*", price)
    return (
        f"{d.who} packs {size * cartons} eggs into cartons of {size} and sells each carton for ${price}. "
        f"How many dollars does {d.who} {d.word(('get', 'earn'))}?"
    )


def stall(d: Draft) -> str:
    baked, n, price, spent = d.pick(BAKED), d.number(10, 40), d.number(2, 5), d.number(3, 18)
    left = d.number(1, n - 9)
    sold = d.step(f"{d.who} sells {{}}.", n, "-", left, baked)
    taken = d.step(f"{d.who} takes in ${{}}.", sold, "*", price)
    d.step("The profit is ${}.", taken, "-", spent)
    return (
        f"{d.who} bakes {n} {baked.many} and sells all but {left} for ${price} each. The flour cost ${spent}. "
        f"How many dollars of profit does {d.who} {d.word(('make', 'have'))}?"
    )


def pay_monthly(d: Draft) -> str:
    item, down, months, each = d.pick(DEAR), d.number(10, 60), d.number(3, 10), d.number(5, 30)
    rest = d.step("After the first payment ${} are left.", down + months * each, "-", down)
    d.step(f"{d.who} pays ${{}} a month.", rest, "/", months)
    return (
        f"A {item.one} costs ${down + months * each}. {d.who} pays ${down} at once and the rest in {months} equal "
        f"monthly parts. How many dollars does {d.who} pay {d.word(('a month', 'each month'))}?"
    )


def compare_spending(d: Draft) -> str:
    item, a, b, price = d.pick(SHOP), d.number(4, 12), d.number(1, 3), d.number(2, 9)
    x = d.step(f"{d.who} spends ${{}}.", a, "*", price)
    y = d.step(f"{d.other} spends ${{}}.", b, "*", price)
    d.step("The difference is ${}.", x, "-", y)
    return (
        f"{d.who} buys {item.of(a)} and {d.other} buys {item.of(b)}. Each {item.one} costs ${price}. "
        f"How many dollars more does {d.who} spend than {d.other}?"
    )
