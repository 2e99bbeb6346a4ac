"""Planets, elements, animals and colours. One line an entity, both languages; see `relation.table`."""

from dataset.little_world.relation import table

# planet | its place, counted from the sun
PLANETS = table("""
    水星 Mercury | 第一 first
    金星 Venus | 第二 second
    地球 Earth | 第三 third
    火星 Mars | 第四 fourth
    木星 Jupiter | 第五 fifth
    土星 Saturn | 第六 sixth
    天王星 Uranus | 第七 seventh
    海王星 Neptune | 第八 eighth
""")

# element | symbol | atomic number
ELEMENTS = table("""
    氢 hydrogen | H | 1
    氦 helium | He | 2
    锂 lithium | Li | 3
    铍 beryllium | Be | 4
    硼 boron | B | 5
    碳 carbon | C | 6
    氮 nitrogen | N | 7
    氧 oxygen | O | 8
    氟 fluorine | F | 9
    氖 neon | Ne | 10
    钠 sodium | Na | 11
    镁 magnesium | Mg | 12
    铝 aluminium | Al | 13
    硅 silicon | Si | 14
    磷 phosphorus | P | 15
    硫 sulfur | S | 16
    氯 chlorine | Cl | 17
    氩 argon | Ar | 18
    钾 potassium | K | 19
    钙 calcium | Ca | 20
    钛 titanium | Ti | 22
    铬 chromium | Cr | 24
    锰 manganese | Mn | 25
    铁 iron | Fe | 26
    钴 cobalt | Co | 27
    镍 nickel | Ni | 28
    铜 copper | Cu | 29
    锌 zinc | Zn | 30
    溴 bromine | Br | 35
    氪 krypton | Kr | 36
    银 silver | Ag | 47
    锡 tin | Sn | 50
    氙 xenon | Xe | 54
    钡 barium | Ba | 56
    钨 tungsten | W | 74
    铂 platinum | Pt | 78
    金 gold | Au | 79
    汞 mercury | Hg | 80
    铅 lead | Pb | 82
    铀 uranium | U | 92
""")

# animal | class | main food
ANIMALS = table("""
    大熊猫 the giant panda | 哺乳动物 mammal | 竹子 bamboo
    奶牛 the cow | 哺乳动物 mammal | 青草 grass
    绵羊 the sheep | 哺乳动物 mammal | 青草 grass
    斑马 the zebra | 哺乳动物 mammal | 青草 grass
    野兔 the hare | 哺乳动物 mammal | 青草 grass
    长颈鹿 the giraffe | 哺乳动物 mammal | 树叶 leaves
    树懒 the sloth | 哺乳动物 mammal | 树叶 leaves
    考拉 the koala | 哺乳动物 mammal | 桉树叶 eucalyptus leaves
    松鼠 the squirrel | 哺乳动物 mammal | 坚果 nuts
    猴子 the monkey | 哺乳动物 mammal | 水果 fruit
    食蚁兽 the anteater | 哺乳动物 mammal | 蚂蚁 ants
    鼹鼠 the mole | 哺乳动物 mammal | 蚯蚓 earthworms
    狮子 the lion | 哺乳动物 mammal | 肉 meat
    老虎 the tiger | 哺乳动物 mammal | 肉 meat
    狼 the wolf | 哺乳动物 mammal | 肉 meat
    蓝鲸 the blue whale | 哺乳动物 mammal | 磷虾 krill
    海豚 the dolphin | 哺乳动物 mammal | 小鱼 small fish
    海豹 the seal | 哺乳动物 mammal | 小鱼 small fish
    海獭 the sea otter | 哺乳动物 mammal | 海胆 sea urchins
    企鹅 the penguin | 鸟类 bird | 磷虾 krill
    鹈鹕 the pelican | 鸟类 bird | 小鱼 small fish
    翠鸟 the kingfisher | 鸟类 bird | 小鱼 small fish
    燕子 the swallow | 鸟类 bird | 飞虫 flying insects
    猫头鹰 the owl | 鸟类 bird | 老鼠 mice
    鹦鹉 the parrot | 鸟类 bird | 种子 seeds
    麻雀 the sparrow | 鸟类 bird | 种子 seeds
    蜂鸟 the hummingbird | 鸟类 bird | 花蜜 nectar
    犀鸟 the hornbill | 鸟类 bird | 水果 fruit
    秃鹫 the vulture | 鸟类 bird | 腐肉 carrion
    青蛙 the frog | 两栖动物 amphibian | 飞虫 flying insects
    蟾蜍 the toad | 两栖动物 amphibian | 飞虫 flying insects
    壁虎 the gecko | 爬行动物 reptile | 飞虫 flying insects
    绿鬣蜥 the green iguana | 爬行动物 reptile | 树叶 leaves
    鳄鱼 the crocodile | 爬行动物 reptile | 肉 meat
    大白鲨 the great white shark | 鱼类 fish | 肉 meat
    鲸鲨 the whale shark | 鱼类 fish | 浮游生物 plankton
    蝠鲼 the manta ray | 鱼类 fish | 浮游生物 plankton
    蜜蜂 the bee | 昆虫 insect | 花蜜 nectar
    蝴蝶 the butterfly | 昆虫 insect | 花蜜 nectar
    蚕 the silkworm | 昆虫 insect | 桑叶 mulberry leaves
    白蚁 the termite | 昆虫 insect | 木头 wood
""")

# thing | its usual colour
COLOURS = table("""
    血 blood | 红色 red
    熟透的西红柿 a ripe tomato | 红色 red
    草莓 a ripe strawberry | 红色 red
    消防车 a fire engine | 红色 red
    红绿灯里的停车灯 a stop light | 红色 red
    秋天的枫叶 a maple leaf in autumn | 红色 red
    熟香蕉 a ripe banana | 黄色 yellow
    柠檬 a lemon | 黄色 yellow
    向日葵的花瓣 the petals of a sunflower | 黄色 yellow
    刚出壳的小鸡 a newly hatched chick | 黄色 yellow
    玉米粒 sweet corn | 黄色 yellow
    雪 snow | 白色 white
    牛奶 milk | 白色 white
    食盐 table salt | 白色 white
    天鹅 a swan | 白色 white
    棉花 cotton | 白色 white
    北极熊 a polar bear | 白色 white
    面粉 flour | 白色 white
    豆腐 tofu | 白色 white
    煤 coal | 黑色 black
    乌鸦 a crow | 黑色 black
    墨汁 Chinese ink | 黑色 black
    汽车轮胎 a car tyre | 黑色 black
    春天的小草 grass in spring | 绿色 green
    黄瓜 a cucumber | 绿色 green
    菠菜 spinach | 绿色 green
    西兰花 broccoli | 绿色 green
    仙人掌 a cactus | 绿色 green
    祖母绿宝石 an emerald | 绿色 green
    晴天的天空 the sky on a clear day | 蓝色 blue
    大海 the sea | 蓝色 blue
    蓝宝石 a sapphire | 蓝色 blue
    茄子 an eggplant | 紫色 purple
    薰衣草 lavender | 紫色 purple
    胡萝卜 a carrot | 橙色 orange
    南瓜 a pumpkin | 橙色 orange
    橘子 a tangerine | 橙色 orange
    巧克力 milk chocolate | 棕色 brown
    栗子 a chestnut | 棕色 brown
    大象 an elephant | 灰色 grey
    水泥 cement | 灰色 grey
    火烈鸟 a flamingo | 粉色 pink
""")
