"""English material for stories and talk: characters, things, and plots with several ways to tell each moment.

A plot is a block of lines. Each line is one moment of the story; the alternatives for it stand between `|`.
"""

SLOTS = {
    "name": "Tom,Lily,Ben,Anna,Jack,Mia,Sam,Lucy,Max,Emma,Leo,Rose,Dan,Kate,Paul,Nina,Peter,Grace,Oscar,Ella",
    "elder": "Grandma,Grandpa,Mother,Father,the teacher,Uncle Joe,Aunt May,the old neighbour,the gardener,the baker",
    "place": "the park,the river,the hill,the school,the market,the library,the garden,the beach,the village square,"
    "the wood,the station,the field,the lake,the farm,the bridge",
    "thing": "kite,ball,toy boat,picture book,hat,pencil,wooden horse,bottle,torch,scarf,violin,bell,school bag,"
    "small spade,map,telescope",
    "pet": "kitten,puppy,rabbit,duckling,lamb,little bird,turtle,squirrel,pony,gosling",
    "food": "apples,bread,cookies,melon,noodles,dumplings,peanuts,cake,soup,rice,pears,corn,cheese,pancakes",
    "weather": "sunny,rainy,windy,warm,cool,snowy,foggy,cloudy,bright",
    "time": "morning,afternoon,evening,day after school,Saturday,holiday,early morning,quiet evening,summer day",
    "glad": "happy,glad,proud,cheerful,thankful,joyful",
    "sad": "sad,worried,unhappy,troubled,nervous,upset",
    "skill": "swimming,painting,riding a bicycle,playing chess,singing,skipping,cooking,writing,dancing,"
    "growing flowers",
}

PLOTS = (
    """
    One {weather} {time}, {name} went to {place}. | It was a {weather} {time} and {name} was alone at {place}. | Every {time} {name} liked to walk near {place}.
    {name} carried a {thing} and sang a little song. | In the bag there was a {thing}, a present from {elder}. | The new {thing} made {name} very {glad}.
    Then the {thing} was gone. | While resting, {name} saw that the {thing} was lost. | A strong wind came and the {thing} flew away.
    {name} felt {sad} and looked everywhere. | {name} walked the same way again but found nothing. | Step by step, {name} went back and looked at the ground.
    {friend} came and said, "Do not worry, I will help you." | {friend} saw this and ran to help. | {friend} heard about it and wanted to help.
    A {pet} was sitting beside the {thing}. | They saw the {thing} under a big tree. | At last {friend} found the {thing} in the tall grass.
    {name} thanked {friend}, and they became good friends. | {name} gave {friend} some {food}, and both were {glad}. | From then on {name} never lost anything again.
    """,
    """
    {name} had always wanted to learn {skill}. | {name} saw how well {friend} was at {skill} and wanted to learn it too. | One {time} {name} said to {elder}, "I want to learn {skill}."
    "If you practise every day, you will learn it," said {elder}. | {elder} smiled and promised to teach it. | {friend} said, "I can teach you, but you must be patient."
    On the first day nothing went well, and {name} was {sad}. | At the beginning it was hard, and it went wrong many times. | After an hour {name} sat down near {place}, very tired.
    "Take a rest and eat some {food}," said {elder}. | {friend} brought some {food} and sat down too. | {name} drank some water and stood up again.
    Day after day {name} practised near {place} and never stopped. | In {weather} weather and in any other weather, {name} went on. | {name} wrote down in a small book what was new each day.
    After a month {name} was good at {skill}. | When winter came, {skill} was easy for {name}. | One {time} people at {place} saw it and clapped their hands.
    {name} understood that work makes things easy. | {elder} was {glad} for {name}. | "Next time I will teach {skill} to others," said {name}.
    """,
    """
    {name} had a {pet} at home. | {elder} gave {name} a {pet}, and everyone loved it. | One {time} {name} met a {pet} near {place}.
    The {pet} followed {name} all day long. | The {pet} had bright eyes and looked {glad}. | {name} made a warm little bed for it.
    One {weather} {time} the {pet} ran out of the house. | Once the door was open and the {pet} was gone. | One evening the {pet} was not in its bed.
    {name} was {sad} and could not even eat {food}. | {name} ran to {place} and called its name. | {name} asked {elder} for help.
    {friend} said, "I saw it a moment ago near {place}." | {elder} said, "Do not worry, it cannot be far away." | {friend} took a {thing} and went out to search with {name}.
    Together they went to {place}, and there the {pet} was waiting. | After a long search they heard the {pet} near {place}. | When it was almost dark, the {pet} came back with a {thing} in its mouth.
    {name} held the {pet} and was too {glad} to speak. | From that day on {name} took good care of the {pet}. | That evening the family ate {food} and talked for a long time.
    """,
    """
    {name} and {friend} lived near {place}. | {name} and {friend} went to the same school. | {name} and {friend} had been friends since they were small.
    One {time} they had a quarrel about a {thing}. | One day {name} broke the {thing} of {friend} by mistake. | Both of them wanted the new {thing}.
    {friend} went away angry, and {name} stood alone near {place}. | For some days they did not speak. | {name} felt {sad} and did not know how to begin.
    {elder} said, "A friend is worth more than a {thing}." | {elder} told a story from long ago. | At night {name} remembered how they used to play.
    The next day {name} took some {food} to {friend}. | {name} wrote a letter and put it on the table of {friend}. | When it rained, {friend} saw {name} without an umbrella and came over.
    "I am sorry, it was my mistake," said {name}. | "Let us play together," said {friend}. | Both said "I am sorry" at the same time and laughed.
    From that day on they shared everything. | They were best friends again. | Later the {thing} was kept at {place}, where everyone could use it.
    """,
    """
    {elder} asked {name} to go to {place} and buy some {food}. | One {time} {name} went to {place} alone for the first time. | Guests were coming, so {elder} sent {name} to buy {food}.
    It was {weather}, and {name} walked fast. | {name} put the money in a pocket and felt a little {sad}. | Before that, {elder} said, "Look left and right at the road."
    On the way there was an old man with a heavy bag. | Near {place} somebody was crying. | At the crossing stood a small boy who was afraid of the cars.
    {name} thought for a moment and wanted to help first. | {name} ran over and asked, "Do you need help?" | There was not much time, but {name} stopped.
    Only after that did {name} think of the {food} again. | When {name} came to the shop, it was about to close. | It was already late when {name} went home.
    {elder} heard the story and smiled. | "You are a kind child," said the shopkeeper. "Take the {food} as a present." | {friend} had seen it all and told everyone.
    That day the {food} tasted better than ever. | That night {name} slept very well. | "When I help others, I am {glad} too," said {name}.
    """,
    """
    The school held a contest in {skill}, and {name} wanted to take part. | One {time} there was a note at {place}: all are welcome to the {skill} contest. | {name} and {friend} agreed to take part in a {skill} contest.
    {name} got up early to practise, and {elder} made {food}. | For the contest {name} borrowed a {thing}. | Nobody practised as much as {friend}.
    On the day it was {weather}, and many people came to {place}. | When it was the turn of {name}, the child was {sad}. | The contest began and everyone was quiet.
    Suddenly the {thing} fell to the ground. | In the middle {name} forgot what to do. | The others had been very good, and the hands of {name} were cold.
    {elder} nodded from below, and {name} became calm. | {friend} said softly, "Do not be afraid, do it as always." | {name} took a deep breath and began again.
    In the end {name} came second and {friend} came first. | There was no prize for {name}, but everyone clapped. | The judges said that {name} had made the best progress.
    "Next year I will come back," said {name}. | They gave the prize to {elder}. | On the way home they sang, and both were {glad}.
    """,
)

TALKS = (
    """
    {name}: Hello, {friend}! It is {weather} today. Where are you going? | {name}: {friend}, I have not seen you for a long time. How are you? | {name}: Good morning, {friend}! I see you have something new.
    {friend}: I am going to {place} to buy some {food}. | {friend}: I am fine. I am on my way to {place}. | {friend}: This is my new {thing}. It is a present from {elder}.
    {name}: Great. May I come with you? | {name}: That sounds like fun. | {name}: I would like to see that too.
    {friend}: Of course. We can go together. | {friend}: Yes, and bring your {pet}. | {friend}: No problem. Let us eat some {food} first.
    {name}: I will go home and get my {thing}. | {name}: I must tell {elder} first. | {name}: Then let us meet at {place}.
    {friend}: All right, see you soon! | {friend}: Take your time. I will wait. | {friend}: Goodbye, and take care!
    """,
    """
    {name}: I feel a little {sad} today. | {name}: May I ask you something? | {name}: I am back!
    {friend}: Tell me about it. | {friend}: Come and eat some {food} first. | {friend}: Sit down. It is {weather} outside, I think.
    {name}: I want to learn {skill}, but it is too hard for me. | {name}: I broke the {thing} that {elder} gave me. | {name}: My {pet} ran away to {place}.
    {friend}: Do not give up. Nobody learns it in one day. | {friend}: Say that you are sorry, and all will be well. | {friend}: Let us go and look together.
    {name}: I understand. I will try again tomorrow. | {name}: Thank you. I feel better now. | {name}: You are a good friend.
    {friend}: That is right. | {friend}: I believe in you. | {friend}: Any time!
    """,
)
