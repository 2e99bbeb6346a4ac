"""Chinese material for stories and talk: characters, things, and plots with several ways to tell each moment.

A plot is a block of lines. Each line is one moment of the story; the alternatives for it stand between `|`.
"""

SLOTS = {
    "name": "小明 小红 小华 小丽 小刚 小芳 小军 小雨 阿强 阿梅 丁丁 乐乐 豆豆 圆圆 明明 小杰 小雪 小梅 天天 朵朵",
    "elder": "奶奶 爷爷 妈妈 爸爸 老师 叔叔 阿姨 姑姑 舅舅 邻居王大爷",
    "place": "公园 河边 山脚下 学校 菜市场 图书馆 小花园 海边 村口 树林 广场 车站 田野 操场 湖边",
    "thing": "风筝 皮球 小船 图画书 帽子 铅笔 小木马 水壶 手电筒 围巾 小提琴 铃铛 书包 小铲子 地图 望远镜",
    "pet": "小猫 小狗 小兔子 小鸭子 小羊 小鸟 小乌龟 小松鼠 小马 小鹅",
    "food": "苹果 包子 馒头 西瓜 面条 饺子 花生 红薯 蛋糕 橘子 米饭 豆浆 玉米 热汤",
    "weather": "晴朗 下着小雨 有风 暖和 凉快 下着雪 有雾 阴沉 阳光明媚",
    "time": "清晨 早上 上午 中午 下午 傍晚 晚上 放学以后 周末 假期里",
    "glad": "高兴 开心 快乐 满足 骄傲 感动",
    "sad": "难过 着急 担心 不安 伤心 沮丧",
    "skill": "游泳 画画 骑车 下棋 唱歌 跳绳 做饭 写字 吹口琴 种花",
}

PLOTS = (
    """
    {time}，天气{weather}，{name}来到{place}。 | 有一天{time}，{name}一个人去了{place}。 | {name}喜欢在{time}去{place}走一走。
    他带着心爱的{thing}，一边走一边哼歌。 | 书包里装着{thing}，这是{elder}送的礼物。 | 手里拿着{thing}，心里很{glad}。
    走着走着，{thing}不见了。 | 坐下休息的时候，他发现{thing}丢了。 | 忽然刮来一阵风，{thing}不知道掉到哪里去了。
    {name}非常{sad}，到处寻找。 | 他把走过的路又走了一遍，还是没有找到。 | 他低着头，一步一步地往回找。
    这时，{friend}走过来，说：“别急，我来帮你。” | {friend}看见了，马上跑过来一起找。 | 路过的{friend}听说了这件事，决定帮忙。
    原来，一只{pet}正守在{thing}旁边。 | 他们在一棵大树下面看到了{thing}。 | 最后，{friend}在草丛里找到了{thing}。
    {name}感谢了{friend}，两个人成了好朋友。 | {name}请{friend}吃了{food}，两个人都很{glad}。 | 从那以后，{name}再也没有把东西弄丢。
    """,
    """
    {name}一直想学{skill}。 | {name}看见{friend}会{skill}，心里很羡慕。 | {time}，{name}对{elder}说：“我要学{skill}。”
    {elder}说：“只要每天练习，就能学会。” | {elder}笑着点点头，答应教他。 | {friend}说：“我可以教你，可是你要有耐心。”
    第一天，他怎么也做不好，有点{sad}。 | 开始的时候很难，他失败了好几次。 | 练了一会儿，他累得坐在{place}的椅子上。
    “休息一下，吃点{food}吧。”{elder}说。 | {friend}拿来{food}，陪他坐了一会儿。 | 他喝了一口水，又站了起来。
    一天又一天，他在{place}练习，从来没有停过。 | 不管天气是{weather}还是别的样子，他都坚持练习。 | 他把每天学到的东西写在本子上。
    一个月以后，他终于学会了{skill}。 | 到了冬天，他的{skill}已经很好了。 | 有一天，大家在{place}看到了他的本领，都拍起手来。
    {name}明白了：只要坚持，就会成功。 | {elder}为他感到{glad}。 | 他说：“下次我也要教别人{skill}。”
    """,
    """
    {name}家里养了一只{pet}。 | {elder}送给{name}一只{pet}，大家都很喜欢它。 | {time}，{name}在{place}遇到一只{pet}。
    {pet}每天跟着他，一起吃饭，一起玩。 | {pet}的眼睛亮亮的，看起来很{glad}。 | {name}给它做了一个温暖的小窝。
    一天{time}，天气{weather}，{pet}跑了出去。 | 有一次，门没有关好，{pet}不见了。 | 那天回到家，{name}发现{pet}不在窝里。
    {name}很{sad}，连{food}也吃不下。 | {name}跑到{place}，大声叫它的名字。 | {name}去找{elder}，请他想办法。
    {friend}说：“我刚才在{place}看见它了。” | {elder}说：“别担心，它不会走远的。” | {friend}带着{thing}，和他一起出门去找。
    他们一起来到{place}，{pet}正在那里等着。 | 找了很久，他们听见{pet}在{place}轻轻地叫。 | 天快黑的时候，{pet}自己回来了，嘴里还叼着{thing}。
    {name}抱住{pet}，{glad}得说不出话。 | 从此，他每天都好好照顾{pet}。 | 那天晚上，一家人吃着{food}，说了很久的话。
    """,
    """
    {place}旁边住着{name}和{friend}两个好朋友。 | {name}和{friend}在同一所学校上学。 | {name}和{friend}从小一起长大。
    {time}，两个人为了一个{thing}吵了起来。 | 有一天，{name}不小心弄坏了{friend}的{thing}。 | 他们都想要那个新的{thing}，谁也不让谁。
    {friend}生气地走了，{name}一个人站在{place}。 | 两个人好几天没有说话。 | {name}心里很{sad}，可是不知道怎么开口。
    {elder}知道了，说：“朋友比{thing}更重要。” | {elder}给他讲了自己小时候的事。 | 晚上，他想起了从前一起玩的日子。
    第二天，{name}带着{food}去找{friend}。 | {name}写了一封信，放在{friend}的桌子上。 | 下着雨的时候，{friend}看到{name}没有伞，就走了过去。
    “对不起，是我不好。”{name}说。 | “我们一起玩吧。”{friend}先开了口。 | 两个人同时说：“对不起！”说完都笑了。
    从那天起，他们什么东西都一起分享。 | 他们又成了最好的朋友。 | {thing}后来放在{place}，大家都可以玩。
    """,
    """
    {elder}请{name}去{place}买{food}。 | {time}，{name}第一次一个人去{place}。 | 家里来了客人，{elder}让{name}去买{food}。
    路上天气{weather}，他走得很快。 | 他把钱放进口袋，心里有点{sad}。 | 出门以前，{elder}告诉他要看清红绿灯。
    半路上，他看见一位老人提着很重的袋子。 | 走到{place}，他听见有人在哭。 | 在路口，一个小男孩站在那里不敢过马路。
    {name}想了想，决定先去帮忙。 | 他马上跑过去问：“需要帮忙吗？” | 虽然赶时间，他还是停了下来。
    忙完以后，他才想起要买{food}。 | 等他再去买东西，店已经快关门了。 | 回家的时候，天已经有些晚了。
    {elder}听了他的话，摸了摸他的头。 | 店主说：“你是个好孩子，这{food}送给你。” | {friend}也看到了，把这件事告诉了大家。
    {name}觉得今天的{food}特别香。 | 那天晚上，他睡得很香。 | {name}说：“帮助别人，自己也会{glad}。”
    """,
    """
    学校要办一次{skill}比赛，{name}报了名。 | {time}，{place}贴出了一张通知：欢迎大家来参加{skill}比赛。 | {name}和{friend}约好一起参加{skill}比赛。
    他每天早起练习，{elder}给他准备{food}。 | 为了比赛，他借来了一个{thing}。 | {friend}练得比谁都认真。
    比赛那天，天气{weather}，{place}来了很多人。 | 轮到{name}的时候，他非常{sad}。 | 比赛开始了，大家都安静下来。
    突然，他的{thing}掉在了地上。 | 做到一半，他忘了下一步该怎么办。 | 前面的人都做得很好，他的手心出了汗。
    {elder}在台下向他点头，他慢慢平静下来。 | {friend}小声说：“别怕，像平时一样就好。” | 他深深地吸了一口气，又开始了。
    最后，{name}得了第二名，{friend}得了第一名。 | 他没有得奖，可是大家都为他鼓掌。 | 评委说，他是今天进步最大的孩子。
    {name}说：“明年我还要来。” | 他们把奖品送给了{elder}。 | 回家的路上，两个人唱着歌，心里都很{glad}。
    """,
)

TALKS = (
    """
    {name}：你好，{friend}！今天天气{weather}，你要去哪里？ | {name}：{friend}，好久不见，最近怎么样？ | {name}：早上好，{friend}！你手里拿的是什么？
    {friend}：我要去{place}，想买一些{food}。 | {friend}：我很好，正准备去{place}。 | {friend}：这是我的新{thing}，{elder}送给我的。
    {name}：太好了，我可以和你一起去吗？ | {name}：听起来真有意思。 | {name}：我也想去看看。
    {friend}：当然可以，我们{time}出发吧。 | {friend}：好啊，带上你的{pet}。 | {friend}：没问题，我们先吃点{food}。
    {name}：我回家拿{thing}，马上就来。 | {name}：我要先告诉{elder}一声。 | {name}：那我们在{place}见面。
    {friend}：好的，一会儿见！ | {friend}：别着急，我等你。 | {friend}：再见，路上小心！
    """,
    """
    {name}：{elder}，我今天有点{sad}。 | {name}：{elder}，我可以问您一件事吗？ | {name}：{elder}，我回来了！
    {elder}：怎么了？慢慢说。 | {elder}：来，先吃一点{food}。 | {elder}：快坐下，外面{weather}吧？
    {name}：我想学{skill}，可是总也学不会。 | {name}：我把{friend}的{thing}弄坏了。 | {name}：{friend}要搬到很远的地方去了。
    {elder}：不要灰心，谁都是慢慢学会的。 | {elder}：做错了事，说一声对不起就好。 | {elder}：好朋友离得再远，心也是近的。
    {name}：我明白了，我明天就去试一试。 | {name}：谢谢您，我心里好多了。 | {name}：那我给{friend}写一封信吧。
    {elder}：这就对了。 | {elder}：好孩子，去吧。 | {elder}：我相信你。
    """,
)
